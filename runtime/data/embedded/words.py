"""Strings of digits, and how captions say them."""

from __future__ import annotations

from collections.abc import Sequence

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WEIGHTS = (1, 3, 7, 9)


def caption(digits: Sequence[int]) -> str:
    """`[3, 7]` as "three seven"."""
    return " ".join(WORDS[digit] for digit in digits)


def held_out(digits: Sequence[int]) -> bool:
    """Whether a string of two or more digits is kept out of training.

    A check digit rule: a fifth of the strings of each length, with every digit equally often at every place, so that
    the split does not move the unigrams. Single digits are never held out.
    """
    return len(digits) > 1 and sum(w * d for w, d in zip(_WEIGHTS, digits, strict=False)) % 5 == 0
