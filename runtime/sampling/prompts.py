"""What each sample is asked for: its segments, and which positions of them are to be filled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from compiler.manifest import VocabularyManifest
from compiler.plan import RunPlan
from runtime.data import DataError, Source, Text, decode
from runtime.data.encoding import encode
from runtime.sampling.canvas import Bools
from runtime.sampling.lengths import Lengths
from runtime.training.draws import LENGTHS, uniforms
from runtime.training.platform import ON_CPU
from runtime.training.stream import Indices
from specs.errors import RuleError

CONDITION_MASKED, OTHER_LENGTH, ONE_LENGTH, LOOKUP = "condition-masked", "other-length", "one-length", "lookup"
"""Controls: the condition hidden from the network; a target of a length that another condition of the same size has;
one length for all conditions of a size; and training data looked up instead of samples."""

POSITIONS = 2_048 if ON_CPU else 131_072
"""Positions of a batch: on a CPU more make it no faster."""
LIKE = 0.85
"""The least share of the longest canvas of a batch that another in it has."""

_HOLE = re.compile(r"\[\[(\d{1,6})\]\]")
_READ = 2_000
"""Training sequences by which the one length of conditions of a size is found."""


class Ask(NamedTuple):
    """One canvas: what was `asked` for in words, the `segments` of the sequence (ids of their own vocabularies), and
    where each is `hidden`. `sample` is which sample it is a candidate of, `log_p` the log-probability of its length
    among the candidates'."""

    sample: int
    asked: str
    segments: list[Indices]
    hidden: list[Bools]
    log_p: float = 0.0


def batches(asks: Sequence[Ask]) -> list[list[int]]:
    """Which of `asks` are worked on together: those of like lengths, the longest first, since padding costs as much as
    tokens."""
    lengths = [sum(map(len, ask.segments)) for ask in asks]
    made: list[list[int]] = []
    for k in sorted(range(len(asks)), key=lambda k: -lengths[k]):
        longest = lengths[made[-1][0]] if made else 0
        if lengths[k] < LIKE * longest or not made or (len(made[-1]) + 1) * longest > POSITIONS:
            made.append([])
        made[-1].append(k)
    return made


@dataclass(frozen=True)
class Task:
    """What is given and what is made: segments of a modality's sequences by number, `condition` None for a task
    without one; with `infill` the middle of the target is made, and the rest of it is given as well."""

    name: str
    modality: str
    condition: int | None
    target: int
    infill: bool = False


class Prompter:
    """Turns prompts, or held-out data where there are none, into what is to be filled."""

    def __init__(self, run: RunPlan, task: Task, source: Source) -> None:
        self.run, self.task, self.source = run, task, source
        self.held_out = source.split("held_out")
        by_name = {vocabulary.name: vocabulary for vocabulary in source.manifest.vocabularies}
        self.vocabularies = [by_name[segment.vocabulary] for segment in source.manifest.segments]
        self._law: Lengths | None = None

    def asks(
        self, n: int, prompts: Sequence[str], seed: int, lengths: int = 1, draws: int = 1, control: str | None = None
    ) -> list[Ask]:
        """What is to be filled for `n` samples: prompt after prompt, all of them equally often to one; or evenly spaced
        held-out sequences. Of each sample of a task with a condition `draws` candidates, of drawn lengths; with
        `lengths` above 1, of each of so many likeliest ones.

        Raises RuleError for a prompt that makes no sense, DataError for a file that cannot be read.
        """
        if self.task.condition is None:
            make = self._infill if self.task.infill else self._continued
            return [make(number, k, prompts) for number, k in enumerate(self._which(n, len(prompts)))]
        conditions, asked = self._conditions(n, prompts)
        if lengths > 1 and control not in (OTHER_LENGTH, ONE_LENGTH):
            sized = [self.law.likeliest(condition, lengths) * draws for condition in conditions]
        else:
            drawn = (self._lengths(conditions, asked, seed, number, control) for number in range(draws))
            sized = [[(length, 0.0) for length in some] for some in zip(*drawn, strict=True)]
        return self._conditional(conditions, asked, sized)

    def _which(self, n: int, prompts: int) -> list[int]:
        return [number % prompts for number in range(n)] if prompts else self._spaced(n)

    def _spaced(self, n: int) -> list[int]:
        """Held-out sequences: all before any comes twice."""
        size = len(self.held_out)
        return [(number * size // n if n <= size else number) % size for number in range(n)]

    def _conditions(self, n: int, prompts: Sequence[str]) -> tuple[list[Indices], list[str]]:
        """The conditions of n samples, and what they ask for in words: a text condition itself, or the held-out text
        that belongs to it."""
        condition, target = self.task.condition, self.task.target
        assert condition is not None
        vocabulary = self.vocabularies[condition]
        if prompts:
            given = [encode(vocabulary, prompt) for prompt in prompts]
            empty = next((prompt for prompt, tokens in zip(prompts, given, strict=True) if not len(tokens)), None)
            if empty is not None:
                raise RuleError("--prompt", f"{empty!r} has no tokens", "give something to go by")
            which = self._which(n, len(prompts))
            return [given[k] for k in which], [prompts[k] for k in which]
        told = condition if vocabulary.name == "text" else target
        rows = [self.held_out.segments(k) for k in self._spaced(n)]
        asked = [_text(self.vocabularies[told], row[told]) for row in rows]
        return [np.asarray(row[condition], dtype=np.int64) for row in rows], asked

    def _conditional(
        self, conditions: list[Indices], asked: list[str], sized: list[list[tuple[int, float]]]
    ) -> list[Ask]:
        assert self.task.condition is not None
        for condition, words, lengths in zip(conditions, asked, sized, strict=True):
            if len(condition) + max(length for length, _ in lengths) > self._room():
                most = self.run.sequence_length
                what = f"{words[:80]!r} and what is made of it do not fit into the run's {most} tokens"
                raise RuleError("--prompt", what, "give a shorter one")
        asks = []
        for sample, (condition, words, lengths) in enumerate(zip(conditions, asked, sized, strict=True)):
            for length, log_p in lengths:
                segments = [np.empty(0, np.int64)] * len(self.vocabularies)
                segments[self.task.condition], segments[self.task.target] = condition, np.zeros(length, np.int64)
                hidden = [np.full(len(part), number == self.task.target) for number, part in enumerate(segments)]
                asks.append(Ask(sample, words, segments, hidden, log_p))
        return asks

    def _lengths(
        self, conditions: list[Indices], asked: list[str], seed: int, number: int, control: str | None
    ) -> list[int]:
        """A length for each condition, for its candidate `number`."""
        u = uniforms(seed, LENGTHS, number * len(conditions), len(conditions), 2)
        if control == ONE_LENGTH:
            usual = self._usual()
            return [_nearest(usual, self._size(condition)) for condition in conditions]
        if control == OTHER_LENGTH:
            conditions = self._others(conditions, asked, u[:, 1])
        return self.law.draw(conditions, u[:, 0])

    def _others(self, conditions: list[Indices], asked: list[str], u: npt.NDArray[np.float64]) -> list[Indices]:
        """For each condition another of the same size that asks for something else, where there is one."""
        sizes = [self._size(condition) for condition in conditions]
        others = []
        for number, condition in enumerate(conditions):
            among = [k for k, size in enumerate(sizes) if size == sizes[number] and asked[k] != asked[number]]
            others.append(conditions[among[int(u[number] * len(among))]] if among else condition)
        return others

    def _size(self, condition: npt.NDArray[Any]) -> int:
        """Words of a text, tokens of anything else."""
        assert self.task.condition is not None
        vocabulary = self.vocabularies[self.task.condition]
        return len(_text(vocabulary, condition).split()) if vocabulary.name == "text" else len(condition)

    def _usual(self) -> dict[int, int]:
        """The median training length of the target, by the condition's size."""
        train, by_size = self.source.split("train"), dict[int, list[int]]()
        assert self.task.condition is not None
        count = min(_READ, len(train))
        for k in range(count):
            row = train.segments(k * len(train) // count)
            by_size.setdefault(self._size(row[self.task.condition]), []).append(len(row[self.task.target]))
        return {size: sorted(lengths)[len(lengths) // 2] for size, lengths in by_size.items()}

    @property
    def law(self) -> Lengths:
        """The law of the target's length."""
        if self._law is None:
            assert self.task.condition is not None
            self._law = Lengths(self.source.split("train"), self.task.condition, self.task.target)
        return self._law

    def _room(self) -> int:
        """Tokens of a sequence without its task token and brackets."""
        return self.run.sequence_length - 1 - 2 * (len(self.vocabularies) - 1)

    def _continued(self, number: int, k: int, prompts: Sequence[str]) -> Ask:
        """A text that goes on from a prompt, or from nothing, to the sequence's end."""
        prompt = prompts[k] if prompts else ""
        given = encode(self.vocabularies[0], prompt)[: self._room() - 1] if prompt else np.empty(0, np.int64)
        segment = np.zeros(self._room(), dtype=np.int64)
        segment[: len(given)] = given
        return Ask(number, prompt, [segment], [np.arange(len(segment)) >= len(given)])

    def _infill(self, number: int, k: int, prompts: Sequence[str]) -> Ask:
        """A prompt with holes such as `[[8]]`, of so many tokens; or a held-out sequence without the middle half of its
        target."""
        if prompts:
            return self._holes(number, prompts[k])
        row = [np.asarray(part, dtype=np.int64)[: self._room()] for part in self.held_out.segments(k)]
        target = self.task.target
        frame = self.source.manifest.segments[target].fields
        frames = len(row[target]) // frame
        first, last = frames // 4 * frame, (frames // 4 + max(1, frames // 2)) * frame
        hidden = [np.zeros(len(part), dtype=bool) for part in row]
        hidden[target][first:last] = True
        told = next((place for place, one in enumerate(self.vocabularies) if one.name == "text"), None)
        return Ask(number, _text(self.vocabularies[told], row[told]) if told is not None else "", row, hidden)

    def _holes(self, sample: int, prompt: str) -> Ask:
        vocabulary = self.vocabularies[self.task.target]
        if len(self.vocabularies) > 1 or vocabulary.name != "text":
            raise RuleError("--prompt", f"{self.task.modality} has no text of its own", "leave the prompt out")
        pieces = _HOLE.split(prompt)
        if len(pieces) == 1:
            raise RuleError("--prompt", f"{prompt!r} has no hole", "write such as 'the [[8]] of an array'")
        tokens: list[int] = []
        hidden: list[bool] = []
        for number, piece in enumerate(pieces):
            hole = number % 2 == 1
            part = [0] * int(piece) if hole else encode(vocabulary, piece).tolist() if piece else []
            tokens += part
            hidden += [hole] * len(part)
        if len(tokens) > self._room():
            what = f"{prompt!r} has {len(tokens)} tokens, a sequence has room for {self._room()}"
            raise RuleError("--prompt", what, "make it shorter")
        return Ask(sample, prompt, [np.array(tokens, dtype=np.int64)], [np.array(hidden, dtype=bool)])


def _text(vocabulary: VocabularyManifest, tokens: npt.NDArray[Any]) -> str:
    """The text of tokens; nothing where they are of something else."""
    try:
        made = decode(vocabulary, tokens)
    except DataError:
        return ""
    return made.text if isinstance(made, Text) else ""


def _nearest(lengths: dict[int, int], size: int) -> int:
    return lengths[min(lengths, key=lambda known: (abs(known - size), known))]
