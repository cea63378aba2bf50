"""Where built sources lie, and building each only once.

CACHE/data/NAME-DIGEST/     one source, as `store` describes; CACHE is $TRIPTYCH_CACHE, $XDG_CACHE_HOME/triptych or
                            ~/.cache/triptych
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

import msgspec
from rich.console import Console

from compiler.manifest import Manifest, load_manifest, manifest_path
from runtime.data import store
from runtime.data.errors import DataError

_RECIPES = {
    "embedded/text": "runtime.data.embedded.text",
    "embedded/image": "runtime.data.embedded.image",
    "embedded/audio": "runtime.data.embedded.audio",
}
"""Imported only to build: each needs its own optional packages."""
_verified: set[tuple[Path, Manifest]] = set()


class _Recipe(Protocol):
    def make(self) -> tuple[dict[store.SplitName, store.Split], Manifest]: ...


def root() -> Path:
    """The cache's folder; it need not exist."""
    if own := os.environ.get("TRIPTYCH_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "triptych"


def build(data: str, study_folder: Path) -> Path:
    """The folder of source `data` of a study in `study_folder`, built where it is not in the cache.

    Its files are checked against the manifest once per process. Any number of processes may build at the same time.
    Raises DataError where the source cannot be built, is not what its manifest says, or is unknown.
    """
    manifest = _manifest(data, study_folder)
    if data in _RECIPES:
        folder = root() / "data" / f"{data.rpartition('/')[2]}-{manifest.digest}"
        if not folder.exists():
            _make(manifest, folder)
    else:
        folder = study_folder / data
    if (folder.resolve(), manifest) not in _verified:
        store.verify(folder, manifest)
        _verified.add((folder.resolve(), manifest))
    return folder


def load(data: str, study_folder: Path) -> store.Source:
    """The source `data`, built where needed, memory-mapped. Raises DataError as `build` does."""
    folder = build(data, study_folder)
    return store.Source(_manifest(data, study_folder), folder)


def _manifest(data: str, study_folder: Path) -> Manifest:
    try:
        return load_manifest(data, study_folder)
    except FileNotFoundError as error:
        known = ", ".join(sorted(_RECIPES))
        raise DataError(
            f"{data}: there is no {manifest_path(data, study_folder)}; name one of {known}, or a folder, "
            "relative to the study file, that has a manifest.json"
        ) from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{manifest_path(data, study_folder)}: is not a manifest: {error}; write it anew") from error


def _make(manifest: Manifest, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.parent / f".{folder.name}.lock"):
        if folder.exists():
            return
        recipe = cast(_Recipe, importlib.import_module(_RECIPES[manifest.name]))
        with Console(stderr=True).status(f"building {manifest.name} ({manifest.description})"):
            splits, made = recipe.make()
        if made.digest != manifest.digest:
            differing = [
                f"{name} is {found[:12]}…, not {expected[:12]}…"
                for name, found, expected in _digests(made, manifest)
                if found != expected
            ]
            raise DataError(
                f"{manifest.name}: this machine built other data than the manifest says ({'; '.join(differing)}); "
                "install the versions of the lock file, then build again"
            )
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            store.write(temporary, splits, manifest)
            temporary.chmod(0o755)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _digests(made: Manifest, manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    yield "train", made.train.digest, manifest.train.digest
    yield "held_out", made.held_out.digest, manifest.held_out.digest
    for found, expected in zip(made.vocabularies, manifest.vocabularies, strict=True):
        yield f"vocabulary {expected.name}", found.fingerprint, expected.fingerprint


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the file lock `lock`; it goes with the process, however that ends."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
