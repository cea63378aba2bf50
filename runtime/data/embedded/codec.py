"""Codec 2 at 700 bit/s (mode 700C) as a tokenizer of speech: four fields each 40 ms.

A frame is two indices of vector quantisers, an energy and a pitch, of 9, 9, 4 and 6 bits. Each field has its own ids in
one vocabulary; a frame's tokens follow each other in that order.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.manifest import VocabularyManifest
from runtime.data.errors import DataError

RATE = 8000
"""Samples a second."""
FRAME = 320
"""Samples a frame."""
BITS = (9, 9, 4, 6)
FIELDS = len(BITS)
SIZES = tuple(1 << bits for bits in BITS)
OFFSETS = (0, 512, 1024, 1040)
SIZE = sum(SIZES)
PLACES = tuple((offset, offset + size) for offset, size in zip(OFFSETS, SIZES, strict=True))
"""Ids [first, last) of each field."""
_BYTES = 4
_SHIFTS = (23, 14, 10, 4)
"""Place of each field in a packed frame: the most significant bit first, four bits of padding last."""


def vocabulary() -> VocabularyManifest:
    """Its entry in a manifest."""
    layout = f"codec2 700C {BITS}".encode()
    return VocabularyManifest(name="audio", size=SIZE, fingerprint=hashlib.sha256(layout).hexdigest()[:16])


def encode(samples: NDArray[np.int16]) -> NDArray[np.uint16]:
    """(samples,) at `RATE` to (frames · FIELDS,) ids; silence fills the last frame."""
    import pycodec2

    padded = np.pad(samples, (0, -len(samples) % FRAME))
    # A new encoder each time: its state would carry one utterance into the next.
    codec = pycodec2.Codec2(700)
    # One frame a call: of more, Codec 2 codes the first only.
    packed = b"".join(codec.encode(frame) for frame in padded.reshape(-1, FRAME))
    frames = np.frombuffer(packed, dtype=">u4").astype(np.int64)
    fields = [(frames >> shift) % size + offset for shift, size, offset in zip(_SHIFTS, SIZES, OFFSETS, strict=True)]
    return np.stack(fields, axis=1).ravel().astype(np.uint16)


def decode(tokens: NDArray[Any]) -> NDArray[np.int16]:
    """(frames · FIELDS,) ids to (frames · FRAME,) samples.

    Raises DataError where they are not whole frames with each field's ids in its place, or pycodec2 is not installed.
    """
    try:
        import pycodec2
    except ImportError as error:
        raise DataError("decoding speech needs pycodec2; pip install 'triptych[speech]'") from error
    ids = np.asarray(tokens, dtype=np.int64)
    if len(ids) == 0 or len(ids) % FIELDS:
        raise DataError(f"{len(ids)} speech codes are not whole frames of {FIELDS}; check where the codes were cut")
    fields = ids.reshape(-1, FIELDS) - OFFSETS
    if (fields < 0).any() or (fields >= SIZES).any():
        raise DataError("speech codes are not in the order of their fields; restrict each place to its field's ids")
    frames = sum((fields[:, i] << shift for i, shift in enumerate(_SHIFTS)), start=np.zeros(len(fields), np.int64))
    codec = pycodec2.Codec2(700)
    packed = frames.astype(">u4").tobytes()
    return np.concatenate([codec.decode(packed[i : i + _BYTES]) for i in range(0, len(packed), _BYTES)])
