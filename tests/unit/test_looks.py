"""A look that is going on: it ends between two pieces of its work, and is named when it takes long."""

from __future__ import annotations

import contextvars
import threading

import pytest

from study_operator import looks


def test_without_a_look_there_is_nothing_to_end():
    looks.check("works")


def test_a_look_ends_between_two_pieces_also_in_a_thread():
    look, said = looks.Look(), []
    with looks.under(look):
        looks.check("reads")
        assert look.doing == "reads"
        context = contextvars.copy_context()
        look.end("the Study is deleted")

        def work() -> None:
            with pytest.raises(looks.Ended, match="the Study is deleted") as caught:
                looks.check("writes")
            said.append(caught)

        thread = threading.Thread(target=context.run, args=(work,))
        thread.start()
        thread.join()
    assert said
    assert look.doing == "reads"
    looks.check("works")


def test_a_look_is_named_from_30_seconds_on_and_whenever_it_has_taken_twice_as_long():
    now = [0.0]
    look, named = looks.Look(lambda: now[0]), []
    for second in range(200):
        now[0] = float(second)
        if look.to_be_named():
            named.append(second)
    assert named == [30, 60, 120]
