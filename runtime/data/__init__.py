"""Data sources: built, verified, read and decoded. Nothing here imports torch."""

from runtime.data.cache import build, load
from runtime.data.decoding import Decoded, Picture, Sound, Text, decode
from runtime.data.errors import DataError
from runtime.data.showing import contact_sheet, show
from runtime.data.store import Source, Split

__all__ = [
    "DataError",
    "Decoded",
    "Picture",
    "Sound",
    "Source",
    "Split",
    "Text",
    "build",
    "contact_sheet",
    "decode",
    "load",
    "show",
]
