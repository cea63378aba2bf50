"""What a study's file has as its base: plans hold runs, and the base need not be one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from studies.analysis.results import Study

if TYPE_CHECKING:
    from specs.study import ModalitySpec


def base_modalities(study: Study) -> dict[str, ModalitySpec]:
    """The modalities of the study's base by name; empty where its file cannot be read any more."""
    # What reads studies takes a while to import, and few questions need it.
    from pydantic import ValidationError

    from specs.errors import SpecError
    from specs.load import load_study
    from specs.study import ModalitySpec

    try:
        base: Mapping[str, Any] = load_study(study.folder / "study.yaml").document.data["base"]
        return {name: ModalitySpec.model_validate(one) for name, one in base["modalities"].items()}
    except (SpecError, OSError, KeyError, AttributeError, TypeError, ValidationError):
        return {}
