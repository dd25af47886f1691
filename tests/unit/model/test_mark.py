"""What an operator may do about a Study, from its mark and from what the database knows."""

from __future__ import annotations

from typing import Any

import pytest

from study_operator.model.mark import (
    BEGIN_ANEW_ANNOTATION,
    MARK_ANNOTATION,
    TAKE_OVER_ANNOTATION,
    Mark,
    Place,
    Standing,
    Stored,
    claim,
    compare,
    of_another,
    read,
)

UID = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
HERE = Place("cluster", "7300", "studies", "one")
COPY = Place("cluster", "7400", "studies", "one")
EMPTY = Place("cluster", "7300", "studies", "two")
ROWS, OTHER_ROWS = Stored(17, "token"), Stored(17, "another token")
US, THEM = "system/us", "system/them"


def study(mark: Mark | None = None, **annotations: str) -> dict[str, Any]:
    named = {f"study-operator.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    found = named | ({MARK_ANNOTATION: mark.text()} if mark else {})
    return {"metadata": {"namespace": "team", "name": "digits", "uid": UID, "annotations": found}}


def marked(place: Place = HERE, installation: str = US, **annotations: str) -> dict[str, Any]:
    return study(Mark.of(UID, installation, place, ROWS), **annotations)


@pytest.mark.parametrize(
    ("manifest", "here", "stored", "had_trials", "standing"),
    [
        pytest.param(marked(), HERE, ROWS, True, Standing.OURS, id="as ever"),
        pytest.param(study(), HERE, None, False, Standing.CLAIM, id="a new Study"),
        pytest.param(study(), HERE, ROWS, False, Standing.CLAIM, id="the operator died before the claim"),
        pytest.param(study(), HERE, ROWS, True, Standing.CLAIM, id="an earlier version has served it"),
        pytest.param(study(), HERE, None, True, Standing.LOST, id="of an earlier version, and the database is empty"),
        pytest.param(marked(), EMPTY, None, True, Standing.LOST, id="an empty database"),
        pytest.param(marked(), HERE, None, True, Standing.LOST, id="rows were deleted, or a backup is older"),
        pytest.param(marked(), HERE, OTHER_ROWS, True, Standing.LOST, id="a backup from before it began anew"),
        pytest.param(marked(), COPY, ROWS, True, Standing.LOST, id="moved to another server, or a copy"),
        pytest.param(marked(installation=THEM), EMPTY, None, True, Standing.ANOTHERS, id="another installation"),
        pytest.param(marked(installation=THEM), COPY, ROWS, True, Standing.ANOTHERS, id="another one, with a copy"),
        pytest.param(marked(installation=THEM), HERE, ROWS, True, Standing.CLAIM, id="the release has another name"),
        pytest.param(marked(take_over=COPY.name), COPY, ROWS, True, Standing.CLAIM, id="the move is confirmed"),
        pytest.param(marked(take_over=COPY.name), HERE, ROWS, True, Standing.ANOTHERS, id="and the old one stops"),
        pytest.param(marked(take_over=EMPTY.name), EMPTY, None, True, Standing.LOST, id="taken over without rows"),
        pytest.param(marked(take_over=HERE.name), HERE, OTHER_ROWS, True, Standing.CLAIM, id="these rows will do"),
        pytest.param(
            marked(take_over=HERE.name), HERE, ROWS, True, Standing.CLAIM, id="taken over although it is ours"
        ),
        pytest.param(marked(begin_anew=EMPTY.name), EMPTY, None, True, Standing.CLAIM, id="begun anew"),
        pytest.param(study(begin_anew=HERE.name), HERE, None, True, Standing.CLAIM, id="begun anew without a mark"),
        pytest.param(marked(begin_anew=HERE.name), EMPTY, None, True, Standing.LOST, id="begun anew, meaning another"),
        pytest.param(
            marked(begin_anew=COPY.name), COPY, ROWS, True, Standing.LOST, id="begun anew although rows exist"
        ),
        pytest.param(
            marked(installation=THEM, take_over=EMPTY.name), EMPTY, None, True, Standing.ANOTHERS, id="theirs, no rows"
        ),
    ],
)
def test_what_may_be_done(manifest, here, stored, had_trials, standing):
    found = compare(manifest, US, here, stored, had_trials)
    assert found.standing is standing
    assert bool(found.words) is (standing in (Standing.ANOTHERS, Standing.LOST))


def test_the_words_say_what_to_do():
    anew = f"kubectl -n team annotate study digits {BEGIN_ANEW_ANNOTATION}={EMPTY.name}"
    moved = f"kubectl -n team annotate study digits {TAKE_OVER_ANNOTATION}={COPY.name}"
    assert anew in compare(marked(), US, EMPTY, None, True).words
    assert "restore the backup" in compare(marked(), US, EMPTY, None, True).words
    assert moved in compare(marked(), US, COPY, ROWS, True).words
    assert moved in compare(marked(installation=THEM), US, COPY, ROWS, True).words
    assert "system/them" in compare(marked(installation=THEM), US, EMPTY, None, True).words


def test_what_is_certain_without_the_database():
    assert of_another(marked(installation=THEM), US, None)
    assert of_another(marked(EMPTY, THEM), US, HERE)
    assert not of_another(marked(installation=THEM), US, HERE)
    assert not of_another(marked(EMPTY), US, HERE)
    assert not of_another(study(), US, None)


def test_a_claim_takes_away_what_was_asked_for():
    assert claim(marked(), US, HERE, ROWS) is None
    done = claim(marked(take_over=COPY.name, begin_anew=HERE.name), US, COPY, ROWS)
    assert done is not None
    assert done[TAKE_OVER_ANNOTATION] is None
    assert BEGIN_ANEW_ANNOTATION not in done
    assert read(study() | {"metadata": {"uid": UID, "annotations": done}}) == Mark.of(UID, US, COPY, ROWS)


def test_the_mark_of_a_copied_study_is_no_mark_of_the_copy():
    copy = marked()
    copy["metadata"]["uid"] = "another"
    assert read(copy) is None


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "7", "null", "{}", '{"study": 7}', Mark.of(UID, "a\nb", HERE, ROWS).text()]
)
def test_what_is_no_mark_is_none(text):
    manifest = study()
    manifest["metadata"]["annotations"][MARK_ANNOTATION] = text
    assert read(manifest) is None
