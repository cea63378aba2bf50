"""The manifests that a study's modalities name, each read once."""

from __future__ import annotations

from pathlib import Path

import msgspec

from compiler.manifest import SHIPPED, Manifest, load_manifest, manifest_path
from specs.errors import RuleError
from specs.suggest import suggestion


class Catalogue:
    """Manifests by the name of their data, for a study in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Manifest] = {}

    def manifest(self, data: str, modality: str) -> Manifest:
        """The manifest of `data`. Raises RuleError, at `modality`, where there is none that can be read."""
        if data in self._read:
            return self._read[data]
        path = f"modalities.{modality}.data"
        try:
            manifest = self._read[data] = load_manifest(data, self.folder)
        except (OSError, ValueError) as error:
            if isinstance(error, msgspec.MsgspecError):
                what = f"the manifest of '{data}' cannot be read ({error})"
                raise RuleError(path, what, "build the data again") from None
            shipped = [p.relative_to(SHIPPED).with_suffix("").as_posix() for p in sorted(SHIPPED.rglob("*.json"))]
            looked = "" if data.startswith("embedded/") else f" at {manifest_path(data, self.folder)}"
            raise RuleError(path, f"'{data}' has no manifest{looked}", suggestion(data, shipped)) from None
        if not manifest.segments or manifest.train.sequences < 1 or manifest.train.tokens < 1:
            raise RuleError(path, f"'{data}' has no training data", "build the data again")
        return manifest
