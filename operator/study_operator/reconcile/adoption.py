"""Decide whether an object that exists already may be used in place of one that was to be created."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from study_operator.kube.api_server import owner_uid
from study_operator.model.study import KIND, Study


class Adoption(Enum):
    """Whose an object is that has the name of one that was to be created."""

    OURS = "made for this Study"
    LEAVING = "ours, but being deleted"
    ANOTHER_STUDYS = "of another Study, or of an earlier one of this name"
    FOREIGN = "of no Study"


def adoption(found: Mapping[str, Any], study: Study) -> Adoption:
    """Classify an object that was found instead of created.

    Args:
        found: the object, as the API server has it.
        study: the Study for which one of this name was to be created.
    """
    meta = found["metadata"]
    if owner_uid(found) != study.uid:
        owners = {reference["kind"] for reference in meta.get("ownerReferences") or ()}
        return Adoption.ANOTHER_STUDYS if KIND in owners else Adoption.FOREIGN
    return Adoption.LEAVING if "deletionTimestamp" in meta else Adoption.OURS
