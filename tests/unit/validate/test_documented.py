"""Every Study of the pages can be run, by what `study-operator validate` says."""

from __future__ import annotations

import pytest
from documented import REPOSITORY, blocks, studies

from study_operator.validate.checks import findings
from study_operator.validate.schema import study_schema

STUDIES = studies()


@pytest.mark.parametrize("place", STUDIES)
def test_a_study_of_a_page_can_be_run(place):
    found, unchecked = findings(STUDIES[place], study_schema())
    assert [str(one) for one in found] == []
    assert not any("rule" in one for one in unchecked)


def test_every_block_of_the_page_about_katib_is_a_study_but_the_experiment():
    page = REPOSITORY / "docs/coming-from-katib.md"
    of_page = [place for place in STUDIES if place.startswith(page.name)]
    assert len(of_page) == len(blocks(page)) - 1
    assert len(of_page) >= 12
