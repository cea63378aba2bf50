"""What runs leave on disk: names, places and record types, shared by the runtime that writes and all that read.

DIR/store/ID/        one folder per run, wherever it is named: run.json, status.json, metrics.jsonl, eval.jsonl,
                     checkpoint/step-N/, log.txt; lease-N (who owns it), job.json (which job was to train it), cancel
DIR/STUDY/           study.yaml, plan.json, results.parquet, report.html, export/, runs/ID -> ../../store/ID, slurm/
                     (its jobs), .digests.json (sums over long runs' rows; may be deleted)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from compiler.files import decode, open_plain

MIX = "all"
"""The modality of what stands for the whole mix."""

State = Literal["pending", "running", "preempted", "failed", "done", "cancelled"]
"""`preempted` is interrupted by anything but its own fault: it goes on from its newest checkpoint."""


RESULTS = ("metrics.jsonl", "eval.jsonl")
"""The files of rows that a run leaves."""

KEPT_ATTEMPTS = 100
"""Attempts that a status remembers."""


_CHECKPOINT = re.compile(r"step-(\d{1,15})")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One time that processes worked at a run: from the step that they resumed at to the last that is saved.

    `state` is how it ended, running while it does; `job` names the scheduler's job, empty without one. Times are Unix
    seconds.
    """

    state: State = "running"
    reason: str = ""
    job: str = ""
    hosts: tuple[str, ...] = ()
    pid: int = 0
    ranks: int = 1
    started: float = 0.0
    ended: float = 0.0
    first_step: int = 0
    last_step: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`status.json`: where a run stands, written by its owner alone. Times are Unix seconds.

    `diverged` says of a failed run that its loss was not a number: to run it again would not help. `history` holds the
    newest attempts of all `attempts`. `results` are the SHA-256 sums of a done run's rows, by file.
    """

    state: State
    reason: str = ""
    attempts: int = 0
    step: int = 0
    host: str = ""
    pid: int = 0
    started: float = 0.0
    updated: float = 0.0
    diverged: bool = False
    history: tuple[Attempt, ...] = ()
    results: dict[str, str] = {}


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """`job.json`: the scheduler's job that is to train a run, such as 123_4, and when it was submitted."""

    job: str
    profile: str
    submitted: float


_STATUSES = msgspec.json.Decoder(Status)
_SUBMISSIONS = msgspec.json.Decoder(Submission)


class GradientNoise(msgspec.Struct, frozen=True, kw_only=True):
    """Unbiased estimates from one step, of a gradient per non-padding token: `signal` is |G|², the squared norm of the
    mean gradient, `noise` is tr Σ of the gradient of a batch of one sequence. `signal` may be negative by chance:
    average each over steps, then divide. noise / signal is the simple noise scale in sequences (arXiv 1812.06162, eq.
    2.9).

    Times are drawn independently for it, by the run's `time.importance`. Where that is none and weights go as 1 / t
    (linear and cosine schedules), tr Σ grows with the log of the least t drawn, without end: a few steps then make up
    most of an average. Take medians over steps there, or sample times by importance.
    """

    signal: float
    noise: float


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `metrics.jsonl`: one logged optimizer step.

    `tokens` counts non-padding tokens so far; `loss` is the training objective in nats per non-padding target token,
    also for each modality of the batch; `seconds` is training time so far, over all attempts.
    """

    step: int
    tokens: int
    loss: float
    losses: dict[str, float]
    lr: float
    grad_norm: float
    tokens_per_second: float
    padding: float
    """Share of the step's positions that are padding."""
    seconds: float
    bands: tuple[float, ...] = ()
    """What the sequences of each quarter of t in (0, 1], from the least masked to the most, add to `loss`: their sum is
    `loss`."""
    parameter_norm: float | None = None
    """Norm of all parameters after the step."""
    update_norm: float | None = None
    """Norm of what the step changed them by, weight decay included."""
    data_wait: float | None = None
    """Share of the seconds since the row before that the first rank waited for its batches."""
    mfu: float | None = None
    """Model FLOP/s per rank over the peak of the plan's accelerator; None where the device has no known peak."""
    gradient_noise: dict[str, GradientNoise] | None = None
    """By modality, and "all" for the mix, at steps where it was estimated: these always have a row. A modality with
    fewer than two sequences in the step is left out, and with it the mix."""
    activations: dict[str, float] | None = None
    """Root mean squares: of what enters the first block (`embedding`) and of each block's output (`block.0`, …), over
    non-padding positions; of the final norm's output (`final`) over scored ones; of the logits over the whole
    vocabulary (`logits`) at up to 256 of these in each micro-batch."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `eval.jsonl`: one modality's held-out negative ELBO at one step.

    `nelbo` is in nats per non-padding token of whole sequences; `by_token_modality` splits it by the vocabulary the
    token is of (special tokens as `special`), each in nats per token of that part, so that captions and codes
    can be told apart; `conditional` is the nelbo of the last segment given the clean rest (image given caption), None
    for sources of one segment. `standard_error` is that of `nelbo` over sequences.
    """

    step: int
    tokens: int
    modality: str
    nelbo: float
    standard_error: float
    by_token_modality: dict[str, float]
    conditional: float | None
    scored_tokens: int
    sequences: int


def store_folder(out: Path, run_id: str) -> Path:
    """The one folder of run `run_id`."""
    return out / "store" / run_id


def study_folder(out: Path, study: str) -> Path:
    """The folder of study `study`."""
    return out / study


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of all checkpoints in a run's folder, the newest first, whole or not."""
    try:
        found = (_CHECKPOINT.fullmatch(name) for name in os.listdir(folder / "checkpoint"))
    except FileNotFoundError:
        return []
    return sorted((int(match[1]) for match in found if match is not None), reverse=True)


def read_status(folder: Path) -> Status:
    """A run folder's status; pending where it has none, failed with the reason where it cannot be read."""
    try:
        return decode(folder / "status.json", _STATUSES)
    except FileNotFoundError:
        return Status(state="pending")
    except (msgspec.MsgspecError, OSError) as error:
        return Status(state="failed", reason=f"status.json cannot be read: {error}")


def read_submission(folder: Path) -> Submission | None:
    """The job that a run was last submitted as, None where there is none that can be read."""
    try:
        return decode(folder / "job.json", _SUBMISSIONS)
    except (OSError, msgspec.MsgspecError):
        return None


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 sums of a run's rows as they are on disk, by file; files that are not there are left out."""
    found = {}
    for name in RESULTS:
        with contextlib.suppress(OSError), open_plain(folder / name) as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def is_cancelled(folder: Path) -> bool:
    """Whether a user has cancelled a run, and not taken it up again."""
    return (folder / "cancel").exists()


def is_done(folder: Path) -> bool:
    """Whether a run is done, and its rows are still those that it wrote."""
    status = read_status(folder)
    return status.state == "done" and status.results == digests(folder)
