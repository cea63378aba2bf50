"""`triptych submit`: a study's runs as Slurm job arrays, through submitit."""

from __future__ import annotations

import contextlib
import heapq
import io
import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from compiler.files import write_atomically
from compiler.plan import ClusterPlan, RunPlan, Slurm, StudyPlan
from compiler.records import Submission, is_cancelled, is_done, read_submission, store_folder, study_folder
from runtime import scheduler
from runtime.lease import Lease, Watch, is_held
from runtime.scheduler import SchedulerError
from runtime.shift import Shift
from specs.errors import RuleError

COMEBACKS = 100_000
"""Times that submitit may requeue a job: whether a run still comes further is for its attempts to say."""


class Resources(msgspec.Struct, frozen=True, order=True):
    """What one run needs: nodes, and tasks on each, one a rank."""

    nodes: int
    tasks: int


class Array(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that need the same: the runs of each, the longest first, and `minutes` that each may take."""

    resources: Resources
    minutes: int
    jobs: tuple[tuple[RunPlan, ...], ...]


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """What `submit` has done: run ids of each job, and of runs left out because they are done, queued or training, or
    cancelled."""

    study: str
    jobs: dict[str, tuple[str, ...]]
    done: tuple[str, ...]
    queued: tuple[str, ...]
    cancelled: tuple[str, ...]


def told(submitted: Submitted) -> str:
    """What was submitted and what was not, in words."""
    counts = {
        "submitted": sum(map(len, submitted.jobs.values())),
        "done": len(submitted.done),
        "queued or training already": len(submitted.queued),
        "cancelled": len(submitted.cancelled),
    }
    lines = ["runs: " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)]
    arrays = sorted({job.partition("_")[0] for job in submitted.jobs}, key=int)
    if arrays:
        lines.append(f"{len(submitted.jobs):,} jobs, of Slurm's {', '.join(arrays)}")
    return "\n".join(lines)


def slurm_of(cluster: ClusterPlan) -> Slurm:
    """What a cluster's profile says of Slurm. Raises RuleError where it is not reached through Slurm."""
    if cluster.slurm is None:
        what = f"the study's cluster, '{cluster.name}', is not reached through Slurm"
        raise RuleError("cluster", what, "give --profile NAME, a profile of kind: slurm, or use `triptych run`")
    return cluster.slurm


def resources(run: RunPlan, cluster: ClusterPlan) -> Resources:
    """Nodes and tasks of a run. Raises RuleError where its ranks do not fit the cluster."""
    ranks, each = run.parallel.ranks, cluster.gpus_per_node
    nodes = math.ceil(ranks / each)
    if ranks % nodes or nodes > cluster.nodes:
        what = f"{ranks} processes do not fit {cluster.nodes} nodes of {each} devices, the same number on each node"
        raise RuleError("parallel.shard", what, f"change the run's processes, or the profile '{cluster.name}'")
    return Resources(nodes, ranks // nodes)


def arrays(runs: Iterable[RunPlan], cluster: ClusterPlan, largest: int) -> list[Array]:
    """Runs grouped into jobs, and jobs into arrays of at most `largest`, those that need most first.

    Runs that are too short for a job of their own share one (`Slurm.pack`), as long as no device is idle for it: there
    are at least as many jobs as the cluster can run at a time. Raises RuleError.
    """
    slurm = slurm_of(cluster)
    alike: dict[Resources, list[RunPlan]] = {}
    for run in runs:
        alike.setdefault(resources(run, cluster), []).append(run)
    found = []
    for needs, members in sorted(alike.items(), reverse=True):
        at_once = max(1, cluster.devices // (needs.nodes * needs.tasks))
        at_once = min(at_once, slurm.array_limit or at_once)
        enough = math.ceil(sum(map(_minutes, members)) / slurm.pack) if slurm.pack else len(members)
        jobs = packed(members, min(len(members), max(at_once, enough)))
        for start in range(0, len(jobs), largest):
            part = jobs[start : start + largest]
            longest = max(sum(map(_minutes, job)) for job in part)
            minutes = slurm.minutes or max(30, math.ceil(2 * longest))  # what takes longer comes back
            found.append(Array(resources=needs, minutes=minutes, jobs=tuple(map(tuple, part))))
    return found


def packed(runs: Sequence[RunPlan], jobs: int) -> list[list[RunPlan]]:
    """`runs` dealt to so many jobs of about equal length: the longest run goes to the job that is shortest so far."""
    bins: list[tuple[float, int, list[RunPlan]]] = [(0.0, number, []) for number in range(jobs)]
    for run in sorted(runs, key=_minutes, reverse=True):
        length, number, members = heapq.heappop(bins)
        heapq.heappush(bins, (length + _minutes(run), number, [*members, run]))
    return [members for _, _, members in sorted(bins, key=lambda one: one[1])]


def _minutes(run: RunPlan) -> float:
    """How long the plan says that a run takes."""
    return 60 * run.device_hours / run.parallel.ranks


class _Executor(SlurmExecutor):
    """submitit's, also where there is no Slurm to submit to, such as for a dry run on another machine."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def executor(array: Array, plan: StudyPlan, folder: Path) -> SlurmExecutor:
    """submitit's executor for an array, whose files go to `folder`."""
    cluster, slurm = plan.cluster, slurm_of(plan.cluster)
    built = _Executor(folder=folder, max_num_timeout=COMEBACKS)
    parameters: dict[str, Any] = {
        "job_name": f"triptych-{plan.study}",
        "time": array.minutes,
        "nodes": array.resources.nodes,
        "ntasks_per_node": array.resources.tasks,
        "gpus_per_node": array.resources.tasks if cluster.has_gpus else None,
        "cpus_per_task": slurm.cpus_per_task,
        "mem": slurm.memory,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "setup": list(slurm.setup) or None,
        "signal_delay_s": slurm.notice,
        "array_parallelism": slurm.array_limit or len(array.jobs),
        # Back in the queue where a node fails; submitit's files of earlier attempts are added to.
        "additional_parameters": {"requeue": True, **slurm.options},
    }
    built.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
    return built


def sbatch_file(array: Array, plan: StudyPlan, folder: Path) -> str:
    """The file that sbatch is given for an array, as submitit writes it."""
    built = executor(array, plan, folder)
    if len(array.jobs) > 1:
        built.parameters["map_count"] = len(array.jobs)
    return built._make_submission_file_text(built._submitit_command_str, "")


def jobs_folder(out: Path, study: str) -> Path:
    """Where submitit keeps a study's jobs."""
    return study_folder(out, study).absolute() / "slurm"


def dry_run(plan: StudyPlan, out: Path) -> list[str]:
    """The sbatch files of all runs that are not done. Raises RuleError."""
    runs = [run for run in plan.runs if not is_done(store_folder(out, run.id))]
    try:
        largest = scheduler.largest_array()
    except SchedulerError:
        largest = 1000
    return [sbatch_file(array, plan, jobs_folder(out, plan.study)) for array in arrays(runs, plan.cluster, largest)]


def submit(
    plan: StudyPlan, data_root: Path, out: Path, console: Console, *, only: Collection[str] | None = None
) -> Submitted:
    """Submit the runs of a plan, whose folders are there, that are not done, cancelled, queued or training; of ids
    `only` if given.

    Raises RuleError, and SchedulerError where Slurm does not take them.
    """
    slurm_of(plan.cluster)
    with alone(out, console) as lease:
        queue = scheduler.queue()
        left: dict[str, list[str]] = {"done": [], "queued": [], "cancelled": []}
        runs = []
        for run in plan.runs:
            folder = store_folder(out, run.id)
            submission = read_submission(folder)
            if is_done(folder):
                left["done"].append(run.id)
            elif is_cancelled(folder):
                left["cancelled"].append(run.id)
            elif (submission is not None and submission.job in queue) or is_held(folder):
                left["queued"].append(run.id)
            elif only is None or run.id in only:
                runs.append(run)
        jobs: dict[str, tuple[str, ...]] = {}
        for array in arrays(runs, plan.cluster, scheduler.largest_array()) if runs else []:
            jobs |= _submit(array, plan, data_root, out)
            lease.beat()
            console.print(f"{len(jobs):,} jobs submitted", highlight=False)
        return Submitted(study=plan.study, jobs=jobs, **{name: tuple(ids) for name, ids in left.items()})


def _submit(array: Array, plan: StudyPlan, data_root: Path, out: Path) -> dict[str, tuple[str, ...]]:
    folder = jobs_folder(out, plan.study)
    shifts = [
        Shift(
            tuple(str(store_folder(out, run.id).absolute()) for run in job),
            str(data_root.absolute()),
            plan.cluster.patience,
        )
        for job in array.jobs
    ]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit also prints what it raises
            submitted = executor(array, plan, folder).submit_array(shifts)
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip() or "sbatch failed and did not say why"
        raise SchedulerError(said.splitlines()[0]) from None
    now, jobs = time.time(), {}
    for job, runs in zip(submitted, array.jobs, strict=True):
        jobs[job.job_id] = tuple(run.id for run in runs)
        record = msgspec.json.encode(Submission(job=job.job_id, profile=plan.cluster.name, submitted=now))
        for run in runs:
            write_atomically(store_folder(out, run.id) / "job.json", record, durably=False)
    return jobs


@contextmanager
def alone(out: Path, console: Console) -> Iterator[Lease]:
    """Be the only one that submits to `out`'s store, after whoever does now."""
    store = out / "store"
    store.mkdir(parents=True, exist_ok=True)
    watch, told = Watch(store), False
    while True:
        evict = watch.evictable()
        lease = Lease.take(store, evict=evict) if evict is not None else None
        if lease is not None:
            break
        if not told:
            console.print("another submission is going on; waiting for it", highlight=False)
            told = True
        time.sleep(0.5)
    with lease:
        yield lease
