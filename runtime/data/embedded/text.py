"""`embedded/text`: English prose from the docstrings of installed packages of exact versions.

The sources are parsed, not imported. Paragraphs that read as prose are kept, each only once in the whole source, so
that boilerplate is in one split only, and with them the lines that name parameters and results; what is left of one
docstring is a document.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import re
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from compiler.manifest import Manifest
from runtime.data.embedded import tokenizer
from runtime.data.errors import DataError
from runtime.data.store import Split, SplitName, count, describe, pack

NAME = "embedded/text"
PINS = {"numpy": "2.4.6", "scipy": "1.17.1", "polars": "2.1.0", "torch": "2.14.1"}
"""Versions that the text is of; the lock file has the same."""
_FOLDERS = (
    "numpy",
    "scipy",
    "polars",
    "torch/ao",
    "torch/distributed",
    "torch/distributions",
    "torch/nn",
    "torch/optim",
    "torch/utils",
)
_FIELD = re.compile(
    r"((Parameters|Returns|Raises|Attributes|Yields|Notes|See Also) -+ ?)?([\w*, ]{1,30} : [\w ,.{}]{1,50})?"
)
"""A section's heading, a parameter's line, or both: `Parameters ---------- axis : int, optional`."""
_SHORTEST_PARAGRAPH = 40
_SHORTEST_DOCUMENT = 120
_HELD_OUT_SHARE = 20
"""One document in this many is held out."""


def make() -> tuple[dict[SplitName, Split], Manifest]:
    """Build the source. Raises DataError where a package has another version than the pinned one."""
    encoder = tokenizer.load()
    splits = {
        name: pack([[encoding.ids] for encoding in encoder.encode_batch(texts)]) for name, texts in documents().items()
    }
    manifest = Manifest(
        name=NAME,
        description="English prose from the docstrings of "
        + ", ".join(f"{package} {version}" for package, version in PINS.items()),
        licence="BSD-3-Clause (NumPy, SciPy, PyTorch), MIT (Polars)",
        packed=True,
        vocabularies=(tokenizer.vocabulary(),),
        segments=(describe("text", splits["train"].of_segment(0)),),
        train=count(splits["train"]),
        held_out=count(splits["held_out"]),
    )
    return splits, manifest


def documents() -> dict[SplitName, list[str]]:
    """The documents of each split, by a hash of their text."""
    found: dict[SplitName, list[str]] = {"train": [], "held_out": []}
    seen: set[str] = set()
    for docstring in _docstrings():
        kept = [
            block
            for block in _blocks(docstring)
            if (block and _FIELD.fullmatch(block)) or (_is_prose(block) and block not in seen)
        ]
        prose = [block for block in kept if not _FIELD.fullmatch(block)]
        if sum(map(len, prose)) < _SHORTEST_DOCUMENT:
            continue
        seen.update(prose)
        document = "\n".join(dict.fromkeys(kept))
        held_out = hashlib.sha256(document.encode()).digest()[0] * _HELD_OUT_SHARE < 256
        found["held_out" if held_out else "train"].append(document)
    return found


def _docstrings() -> Iterator[str]:
    for package, version in PINS.items():
        installed = importlib.metadata.version(package)
        # A local part ("2.14.1+cpu") names the build, not the source.
        if installed.split("+")[0] != version:
            raise DataError(
                f"{NAME} is the docstrings of {package} {version}, but {package} {installed} is installed; "
                f"pip install {package}=={version}"
            )
    for name in _FOLDERS:
        package = name.partition("/")[0]
        root = Path(str(importlib.metadata.distribution(package).locate_file(name)))
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
            # Tests are no prose, and the build writes its own configuration.
            if "tests" in path.parts or path.name in ("__config__.py", "version.py"):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
            yield from _within(tree)


def _within(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _within(child)


def _blocks(docstring: str) -> list[str]:
    """The blocks of lines of one indentation, each joined to one line."""
    blocks = groupby(docstring.expandtabs().splitlines(), _indentation)
    return [" ".join(" ".join(lines).split()) for _, lines in blocks]


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else -1


def _is_prose(text: str) -> bool:
    if len(text) < _SHORTEST_PARAGRAPH or not text.isascii() or not re.match("[A-Z]", text) or text[-1] not in ".:?!":
        return False
    if any(sign in text for sign in (">>>", "::", "---", "===", "...")):
        return False
    plain = sum(character.isalpha() or character == " " for character in text)
    return plain > 0.88 * len(text)
