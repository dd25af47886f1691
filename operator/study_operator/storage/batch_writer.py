"""Store batches: a batch becomes one call of `study_operator.store`. No other code writes trials of a served study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from study_operator.model.batch import Batch, Change, Full, NotStored, StaleHistory, Stored
from study_operator.storage import trial_queries
from study_operator.storage.database import Database

T = TypeVar("T")

_STORE = "SELECT outcome, detail, at, ids FROM study_operator.store(%s, %s)"


def store(database: Database, study_id: int, batch: Batch) -> Stored:
    """Store a batch, whole or not at all.

    Raises:
        StaleHistory: the rows are not what the batch was made for.
        Full: as many trials as there may be have been started.
        StorageUnavailable: it may be stored, or not.
        StorageError: the database refused it.
    """
    text = json.dumps(_as_json(batch))
    outcome, detail, at, ids = database.write(study_id, _STORE, (study_id, text))
    if outcome == "full":
        raise Full
    if outcome == "stale":
        raise StaleHistory(detail)
    return Stored(at, ids)


def store_most(items: Sequence[T], write: Callable[[Sequence[T]], object]) -> list[bool]:
    """Write as many items as possible: all in one piece, and if that is refused, each half by itself.

    Args:
        write: stores some, whole or not at all; raises NotStored when it cannot.

    Returns:
        For each item whether it was written.
    """
    try:
        write(items)
        return [True] * len(items)
    except NotStored:
        if len(items) == 1:
            return [False]
    half = len(items) // 2
    return store_most(items[:half], write) + store_most(items[half:], write)


def _as_json(batch: Batch) -> dict[str, Any]:
    """Return what mirror.sql reads. A missing key says that there is nothing of this kind."""
    changes = sorted(batch.trials.values(), key=lambda change: change.trial_id)  # locks are always taken in this order
    found: dict[str, Any] = {
        "trials": [_change(change) for change in changes],
        "user": _attributes(batch.user_attrs),
        "system": _attributes(batch.system_attrs),
    }
    new = [change.number for change in changes if change.new]
    if new:
        found["number"] = new[0]
    if batch.most is not None:
        found |= {"most": batch.most, "starts": sum(change.starts for change in changes)}
    return found


def _change(change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {"number": change.number}
    if change.new:
        if change.times is not None:
            start, complete = change.times
            found |= {"start": start and start.isoformat(), "complete": complete and complete.isoformat()}
    else:
        found |= {"id": change.trial_id, "was": sorted(state.name for state in change.was)}
    if change.state is not None:
        found["state"] = change.state.name
    if change.params:
        found["params"] = [[name, value, text] for name, (value, text) in change.params.items()]
    if change.values is not None:
        found["values"] = [_number(value) for value in change.values]
    if change.reports:
        found["reports"] = [[step, *_number(value)] for step, value in change.reports.items()]
    if change.user_attrs:
        found["user"] = _attributes(change.user_attrs)
    if change.system_attrs:
        found["system"] = _attributes(change.system_attrs)
    if change.failure is not None:
        found["failure"] = asdict(change.failure)
    return found | {name: True for name in ("unless_result", "forget_result") if getattr(change, name)}


def _attributes(attrs: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, json.dumps(value)) for key, value in attrs.items()]


def _number(value: float) -> Sequence[float | str | None]:
    """Return a value and the word that Optuna stores with it."""
    for kind, special in trial_queries.INFINITIES.items():
        if value == special or (value != value and kind == "NAN"):
            return None, kind
    return value, "FINITE"
