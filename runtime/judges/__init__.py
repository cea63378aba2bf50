"""Judges of samples that are not ours: each says of real held-out data what it says of samples.

Nothing here knows the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from compiler.sampling import Score
from runtime.data import DataError, Source
from runtime.judges.base import Sample

__all__ = ["Sample", "judge"]


def judge(target: str, given: bool, samples: Sequence[Sample], source: Source) -> tuple[Score, ...]:
    """What the judges of samples in vocabulary `target` say, the score that decides first. `given` says whether there
    was a condition: text is then judged by whether it is the condition's, else as language.

    Raises DataError where a judge's packages are not installed, or nothing judges that vocabulary.
    """
    match target, given:
        case "image", _:
            from runtime.judges.pictures import judge_pictures

            return judge_pictures(samples, source)
        case "audio", _:
            from runtime.judges.speech import judge_speech
            from runtime.judges.speech_features import judge_speech_features

            return (*judge_speech(samples, source), *judge_speech_features(samples, source))
        case "text", True:
            from runtime.judges.captions import judge_captions

            return judge_captions(samples, source)
        case "text", False:
            from runtime.judges.texts import judge_texts

            return judge_texts(samples, source)
    raise DataError(f"there is no judge of {target}; sample without judging")
