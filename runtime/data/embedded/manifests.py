"""Rewrite the committed manifests of the embedded sources: `python -m runtime.data.embedded.manifests`."""

from __future__ import annotations

import msgspec

from compiler.manifest import SHIPPED
from runtime.data.embedded import audio, image, text


def main() -> None:
    """Build every embedded source and write what it is beside the compiler."""
    for source in (text, image, audio):
        _, manifest = source.make()
        path = SHIPPED / f"{manifest.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        print(f"{path.name}: {manifest.train.sequences} + {manifest.held_out.sequences} sequences, {manifest.digest}")


if __name__ == "__main__":
    main()
