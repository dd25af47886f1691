"""Logs: one line each, as text or JSON, and always about which study and trial."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from study_operator.logs import configure, study_context, trial_context

log = logging.getLogger("study_operator.test")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Gives logging back to pytest afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("kopf", "optuna", "alembic", "aiohttp", "asyncio")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in lines(capsys)]


def test_a_line_of_text(capsys):
    configure("text", "info")
    with study_context("team-a", "digits"), trial_context(31):
        log.warning("trial %d failed: %s", 31, "OOMKilled")
    (line,) = lines(capsys)
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time)
    assert rest == "warning namespace=team-a study=digits trial=31 trial 31 failed: OOMKilled"


def test_a_line_of_json(capsys):
    configure("json", "info")
    with study_context("team-a", "digits"), trial_context(31):
        log.info('a "quoted"\nmessage, äöü')
    (found,) = objects(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("time"))
    assert found == {
        "level": "info",
        "namespace": "team-a",
        "study": "digits",
        "trial": "31",
        "logger": "study_operator.test",
        "message": 'a "quoted" message, äöü',
    }


def test_a_line_about_no_study_has_all_fields_too(capsys):
    configure("json", "info")
    log.info("starting")
    (found,) = objects(capsys)
    assert (found["namespace"], found["study"], found["trial"]) == ("-", "-", "-")
    configure("text", "info")
    log.info("starting")
    assert lines(capsys)[0].endswith("info    namespace=- study=- trial=- starting")


def test_contexts_end_and_nest(capsys):
    configure("json", "info")
    with study_context("a", "one"):
        with trial_context(1), study_context("b", "two"):
            log.info("inner")
        log.info("middle")
    with pytest.raises(RuntimeError), study_context("a", "one"), trial_context(2):
        raise RuntimeError
    log.info("outer")
    found = [(o["namespace"], o["study"], o["trial"]) for o in objects(capsys)]
    assert found == [("b", "two", "1"), ("a", "one", "-"), ("-", "-", "-")]


async def test_workers_side_by_side_do_not_mix_their_contexts(capsys):
    configure("json", "info")

    async def work(name: str) -> None:
        with study_context("team", name):
            for number in range(3):
                with trial_context(number):
                    await asyncio.sleep(0)
                    log.info("%s %d", name, number)
                    await asyncio.to_thread(log.info, "%s %d", name, number)

    await asyncio.gather(*(work(name) for name in "abc"))
    found = objects(capsys)
    assert len(found) == 18
    assert all(f"{o['study']} {o['trial']}" == o["message"] for o in found)


def log_an_exception() -> None:
    try:
        raise ValueError("what is wrong")
    except ValueError:
        log.exception("trying again in %.1f s", 0.5)


def test_an_exception_is_logged_with_its_traceback(capsys):
    configure("text", "info")
    log_an_exception()
    text = "\n".join(lines(capsys))
    assert "trying again in 0.5 s\n  | Traceback (most recent call last):" in text
    assert text.endswith("  | ValueError: what is wrong")


def test_an_exception_is_a_field_of_its_own_in_json(capsys):
    configure("json", "info")
    log_an_exception()
    (found,) = objects(capsys)
    assert list(found) == ["time", "level", "namespace", "study", "trial", "logger", "message", "exc_info"]
    assert found["message"] == "trying again in 0.5 s"
    assert found["exc_info"].startswith("Traceback (most recent call last):\n")
    assert found["exc_info"].endswith("ValueError: what is wrong")


FORGED = "x\n2026-11-29T09:00:00.000+00:00 error   namespace=team-z study=prod trial=- forged\x1b[31m\u202e\ud800"


def forge() -> None:
    with study_context(f"team-a{FORGED}", "digits\u2028"), trial_context(1):
        log.warning("trial 1 failed: %s", FORGED)
        try:
            raise ValueError(FORGED)
        except ValueError:
            log.exception("trying again: %s", FORGED, stack_info=True)


def test_no_text_forges_a_line_of_text(capsys):
    configure("text", "info")
    forge()
    written = capsys.readouterr().err
    for line in written.split("\n")[:-1]:
        assert line.isprintable(), line
        assert " namespace=team-ax 2026-11" in line or line.startswith("  | ")
    assert sum(line.startswith("2026-11-29T09") for line in written.splitlines()) == 0


def test_no_text_forges_a_line_of_json(capsys):
    configure("json", "info")
    forge()
    found = [json.loads(line) for line in capsys.readouterr().err.split("\n")[:-1]]
    assert len(found) == 2
    for line in found:
        assert line["namespace"].startswith("team-ax 2026-")
        for name, value in line.items():
            assert value.replace("\n", "" if name in ("exc_info", "stack_info") else "\n").isprintable(), name


def test_what_a_library_attaches_to_a_record_is_not_shown(capsys):
    configure("json", "info")
    log.info("connected", extra={"settings": object(), "password": "secret"})
    (found,) = objects(capsys)
    assert list(found) == ["time", "level", "namespace", "study", "trial", "logger", "message"]


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(capsys, level, seen):
    configure("json", level)
    for name in ("debug", "info", "warning", "error"):
        log.log(getattr(logging, name.upper()), "x")
    assert [o["level"] for o in objects(capsys)] == seen


@pytest.mark.parametrize("library", ["kopf.objects", "optuna.study", "aiohttp.access", "asyncio", "alembic"])
def test_libraries_are_heard_only_when_something_is_wrong(capsys, library):
    configure("json", "debug")
    logging.getLogger(library).info("handler called")
    logging.getLogger(library).warning("lost the connection")
    assert [(o["logger"], o["message"]) for o in objects(capsys)] == [(library, "lost the connection")]
    configure("json", "error")
    logging.getLogger(library).warning("lost the connection")
    assert objects(capsys) == []


@pytest.mark.filterwarnings("always")
def test_warnings_of_libraries_are_log_lines(capsys):
    configure("json", "info")
    warnings.warn("the range is not divisible by `step`", stacklevel=1)
    (found,) = objects(capsys)
    assert (found["level"], found["logger"]) == ("warning", "py.warnings")
    assert "the range is not divisible by `step`" in found["message"]


def test_configuring_again_writes_each_line_once(capsys):
    configure("json", "info")
    configure("json", "info")
    log.info("x")
    assert len(objects(capsys)) == 1
