"""What a study's file has as its base: plans hold runs, and the base need not be one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from studies.analysis.results import Study

if TYPE_CHECKING:
    from specs.study import ModalitySpec, TransferSpec


def base_modalities(study: Study) -> dict[str, ModalitySpec]:
    """The modalities of the study's base by name; empty where its file cannot be read any more."""
    # What reads studies takes a while to import, and few questions need it.
    from pydantic import ValidationError

    from specs.study import ModalitySpec

    try:
        return {name: ModalitySpec.model_validate(one) for name, one in _base(study)["modalities"].items()}
    except (KeyError, AttributeError, TypeError, ValidationError):
        return {}


def base_transfer(study: Study) -> TransferSpec | None:
    """The transfer of the study's base; None where it has none or its file cannot be read any more."""
    from pydantic import ValidationError

    from specs.study import TransferSpec

    try:
        return TransferSpec.model_validate(_base(study)["transfer"])
    except (KeyError, ValidationError):
        return None


def _base(study: Study) -> Mapping[str, Any]:
    """The base as the file that the study's folder keeps has it; empty where that cannot be read any more."""
    from specs.errors import SpecError
    from specs.load import load_study

    try:
        base: Mapping[str, Any] = load_study(study.folder / "study.yaml").document.data["base"]
    except (SpecError, OSError, KeyError):
        return {}
    return base
