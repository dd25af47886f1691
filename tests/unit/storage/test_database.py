"""Reading exactly one row."""

from __future__ import annotations

from typing import Any

import pytest

from study_operator.storage.database import StorageError, one_row


class Answered:
    """A cursor whose last statement has answered with these rows."""

    def __init__(self, *rows: tuple[Any, ...]) -> None:
        self._rows = list(rows)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


def test_the_only_row_is_returned():
    assert one_row(Answered((7, None))) == (7, None)


@pytest.mark.parametrize("rows", [(), ((1,), (2,))])
def test_no_row_and_several_rows_are_an_error_that_says_how_many_there_were(rows):
    with pytest.raises(StorageError, match=f"answered with {len(rows)} rows where the operator needs exactly one"):
        one_row(Answered(*rows))
