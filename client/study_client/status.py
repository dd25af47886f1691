"""`status`: one study on one screen, once or live."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from study_client.errors import ClientError, NotFoundError
from study_client.kubectl import Kubectl
from study_client.output import table_text
from study_client.studies import StudyView
from study_client.texts import number_text, one_line, shorten, value_text
from study_client.times import age, span
from study_client.trials import Trial, Trials

_T = TypeVar("_T")
_POLL_SECONDS = 2.0
_MOST_FAILED = 30  # polls in a row without an answer, before a live view gives up
_BAR = 30  # characters
_COUNTED = ("running", "queued", "complete", "pruned", "failed", "infeasible", "terminated")
_MOST_RUNNING = 16  # trials that are listed
_ABOUT_TROUBLE = ("Accepted", "StorageReady")


def status_lines(study: StudyView, now: datetime, trials: Sequence[Trial] = ()) -> list[str]:
    """Return what there is to say of a study, line by line.

    Args:
        now: aware.
        trials: the running ones and the best one, where the cluster serves trials.
    """
    phase = str(study.status.get("phase") or "Pending")
    lines = [f"Study {study.namespace}/{study.name}: {phase}", _progress(study, now), *_best(study, trials, now)]
    lines += [f"now:      {one_line(study.why)}"]
    lines += [f"slots:    {_slots(study)}"]
    for kind in _ABOUT_TROUBLE:
        condition = study.condition(kind)
        if condition is not None and condition.status != "True":
            lines.append(f"{kind}: {condition.reason}: {one_line(condition.message)}")
    lines += list(_failures(study))
    running = [one for one in trials if one.state == "Running"]
    return lines + (["", *_running(running, now)] if running else [])


def _progress(study: StudyView, now: datetime) -> str:
    done, most = study.finished, max(study.max_trials, 1)
    filled = min(_BAR * done // most, _BAR)
    counts = ", ".join(f"{study.trials[name]} {name}" for name in _COUNTED if study.trials.get(name))
    bar = f"trials:   [{'#' * filled}{'.' * (_BAR - filled)}] {done}/{study.max_trials}"
    left = estimate(study, now)
    return "; ".join(part for part in (bar, counts, f"about {span(left)} left" if left is not None else "") if part)


def estimate(study: StudyView, now: datetime) -> float | None:
    """Return in how many seconds a study ends if it goes on as fast as so far; None if that cannot be said."""
    done, started = study.finished, study.started
    if done < 2 or started is None or study.status.get("phase") != "Running" or done >= study.max_trials:
        return None
    return max((now - started).total_seconds(), 0.0) / done * (study.max_trials - done)


def _best(study: StudyView, trials: Sequence[Trial], now: datetime) -> Iterator[str]:
    if study.several:
        yield f"best:     {study.status.get('paretoFrontSize') or 0} trials on the Pareto front"
        return
    best = study.status.get("bestTrial")
    if not best:
        yield "best:     none yet"
        return
    params = ", ".join(f"{key}={value}" for key, value in _shown_params(best).items())
    found = next((one for one in trials if one.number == best["number"]), None)
    when = f", found {age(found.status.get('completionTime'), now)} ago" if found is not None else ""
    value = number_text(next(iter(best["values"]), ""))
    yield f"best:     {one_line(study.objectives[0])} {value} (trial {best['number']}{when}): {shorten(params, 200)}"


def _shown_params(best: dict[str, object]) -> dict[str, str]:
    found = best.get("params") or best.get("parameters") or {}
    return {str(key): value_text(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _slots(study: StudyView) -> str:
    slots, running = study.spec.get("parallelism", 1), study.trials.get("running", 0)
    words = f"{running} of {slots} in use"
    if queued := study.trials.get("queued"):
        words += f", {queued} queued"
    if gpus := study.status.get("gpus"):
        words += f"; {gpus} GPUs"
    return words


def _failures(study: StudyView) -> Iterator[str]:
    for failure in study.status.get("recentFailures") or ():
        words = failure.get("lastLogLine") or failure.get("message") or ""
        code = f", exit code {failure['exitCode']}" if "exitCode" in failure else ""
        yield f"failure:  trial {failure['trial']}: {one_line(failure.get('reason', ''))}{code}: {shorten(words, 160)}"


def _running(trials: Sequence[Trial], now: datetime) -> list[str]:
    rows = []
    for trial in trials[:_MOST_RUNNING]:
        report = trial.status.get("lastReport") or {}
        last = f"step {report['step']}: {number_text(report['value'])}" if report else ""
        params = ", ".join(f"{name}={value_text(value)}" for name, value in trial.params.items())
        rows.append([str(trial.number), age(trial.status.get("startTime"), now), last, shorten(params, 80)])
    more = [f"and {len(trials) - _MOST_RUNNING} more"] if len(trials) > _MOST_RUNNING else []
    return [*table_text(["TRIAL", "FOR", "LAST REPORT", "PARAMETERS"], rows).splitlines(), *more]


def read(kubectl: Kubectl, name: str) -> tuple[StudyView, list[Trial]]:
    """Return a Study, and its running trials and best one where the cluster serves trials."""
    study = StudyView(kubectl.study(name))
    try:
        source = Trials(kubectl)
        trials = source.of(name, "Running") if study.trials.get("running") else []
        best = (study.status.get("bestTrial") or {}).get("number")
        if best is not None and all(one.number != best for one in trials):
            trials.append(source.one(name, best))
    except ClientError:
        return study, []  # the Study itself has all the rest
    return study, trials


def status(kubectl: Kubectl, name: str, watch: bool) -> int:
    """Print a study's status, once, or again and again until it ends."""
    if not watch:
        study, trials = read(kubectl, name)
        print("\n".join(status_lines(study, datetime.now(UTC), trials)))
        return 0
    return _live(kubectl, name) if sys.stdout.isatty() else plain(kubectl, name)


def plain(kubectl: Kubectl, name: str, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print a line whenever something has changed, until the study has ended."""
    before = ""
    for study in _polled(lambda: StudyView(kubectl.study(name)), sleep):
        best = study.status.get("best") or "none yet"
        phase = study.status.get("phase") or "Pending"
        line = f"{phase}: {study.finished}/{study.max_trials} trials, best {best}; {study.why}"
        if line != before:
            print(one_line(line), flush=True)
            before = line
        if study.holds("Finished"):
            break
    return 0


def _live(kubectl: Kubectl, name: str) -> int:
    """Draw the status over itself. The last one stays on the screen, also after Ctrl-C."""
    drawn = 0
    for study, trials in _polled(lambda: read(kubectl, name), time.sleep):
        columns, rows = shutil.get_terminal_size()
        # A line that is wrapped would take two lines, and the next drawing would begin too low.
        lines = [shorten(line, columns - 1) for line in status_lines(study, datetime.now(UTC), trials)][: rows - 1]
        up = f"\x1b[{drawn}A" if drawn else ""
        sys.stdout.write(up + "".join(f"\r{line}\x1b[K\n" for line in lines) + "\x1b[J")
        sys.stdout.flush()
        drawn = len(lines)
        if study.holds("Finished"):
            break
    return 0


def _polled(get: Callable[[], _T], sleep: Callable[[float], None]) -> Iterator[_T]:
    """Yield what is read every two seconds. Once it has been read, an API server that is away is waited for."""
    failed = _MOST_FAILED
    while True:
        try:
            found = get()
        except ClientError as error:
            failed += 1
            if failed > _MOST_FAILED or isinstance(error, NotFoundError):
                raise
        else:
            failed = 0
            yield found
        sleep(_POLL_SECONDS)
