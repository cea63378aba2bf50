"""Speech from the espeak-ng library that espeakng-loader carries.

The library is one global state that each utterance leaves changed, and it may print. So that speech depends on nothing
but the order of its utterances, use it in a process of its own.
"""

from __future__ import annotations

import ctypes

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

RATE = 22050
"""Samples a second."""
_SYNCHRONOUS, _CHARACTERS_UTF8 = 2, 1
_SPEED, _VOLUME, _PITCH = 1, 2, 3
_UNCLIPPED = 60
"""Volume, of 100, at which no voice used here clips."""
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """The library, started. Make one a process."""

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.int16]] = []
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        # Kept on self: C holds only the address.
        self._callback = _Callback(self._receive)
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if rate != RATE:
            raise RuntimeError(f"espeak-ng did not start (it answered {rate})")
        self._library.espeak_SetSynthCallback(self._callback)
        self._set(_VOLUME, _UNCLIPPED)

    def say(self, text: str, voice: str, speed: int, pitch: int) -> NDArray[np.int16]:
        """(samples,) at `RATE`; `speed` in words a minute, `pitch` 0 to 99. RuntimeError for an unknown voice."""
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"espeak-ng has no voice {voice}")
        self._set(_SPEED, speed)
        self._set(_PITCH, pitch)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARACTERS_UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._chunks)

    def _set(self, parameter: int, value: int) -> None:
        self._library.espeak_SetParameter(parameter, value, 0)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], n: int, events: object) -> int:
        if n > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0
