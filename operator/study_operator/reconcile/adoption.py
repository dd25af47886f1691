"""Decide whether an object that exists already may be used in place of one that was to be created."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from study_operator.kube.client import owner_uid
from study_operator.model.study import KIND, TRIAL_ID_ANNOTATION, Study


class Adoption(Enum):
    """Whose an object is that has the name of one that was to be created."""

    OURS = "made for this Study, and for this trial if it is a trial's"
    LEAVING = "ours, but being deleted"
    ANOTHER_STUDYS = "of another Study, or of an earlier one of this name"
    FOREIGN = "of no Study, or of another trial"


def adoption(found: Mapping[str, Any], study: Study, trial_id: int | None = None) -> Adoption:
    """Classify an object that was found instead of created.

    Args:
        found: the object, as the API server has it.
        study: the Study for which one of this name was to be created.
        trial_id: the trial for which it was to be created; None if objects of this kind do not name their trial.
    """
    meta = found["metadata"]
    if owner_uid(found) != study.uid:
        owners = {reference["kind"] for reference in meta.get("ownerReferences") or ()}
        return Adoption.ANOTHER_STUDYS if KIND in owners else Adoption.FOREIGN
    if trial_id is not None and (meta.get("annotations") or {}).get(TRIAL_ID_ANNOTATION) != str(trial_id):
        return Adoption.FOREIGN
    return Adoption.LEAVING if "deletionTimestamp" in meta else Adoption.OURS
