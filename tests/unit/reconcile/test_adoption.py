"""Whether an object that exists already is this Study's, whatever its kind."""

from __future__ import annotations

import pytest
from building import UID, study

from study_operator.reconcile.adoption import Adoption, adoption

OWNER = {"kind": "Study", "name": "digits", "uid": UID, "controller": True}


def found(*owners, **meta):
    return {"metadata": {"name": "digits-0", "ownerReferences": list(owners), **meta}}


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (found(OWNER), Adoption.OURS),
        (found({"kind": "Other", "uid": "x"}, OWNER), Adoption.OURS),
        (found(OWNER, deletionTimestamp="2030-01-02T03:04:05Z"), Adoption.LEAVING),
        (found({**OWNER, "uid": "that of an earlier one"}), Adoption.ANOTHER_STUDYS),
        (found({**OWNER, "name": "other", "uid": "x"}), Adoption.ANOTHER_STUDYS),
        (found({"kind": "Job", "name": "digits-0", "uid": UID[::-1], "controller": True}), Adoption.FOREIGN),
        (found(), Adoption.FOREIGN),
        ({"metadata": {"name": "made by hand"}}, Adoption.FOREIGN),
    ],
)
def test_whose_an_object_is(there, expected):
    assert adoption(there, study()) is expected
