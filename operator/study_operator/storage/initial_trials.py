"""What a study begins with: its initial trials, and finished trials of earlier studies (warm start)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from psycopg2.extensions import cursor

from study_operator.model.history import StoredTrial
from study_operator.model.initial_trials import WISH_ATTR, initial_trials
from study_operator.model.study import Refused, Study
from study_operator.model.trial import TrialState
from study_operator.model.warm_start import MOST_TRIALS, EarlierTrial, Source, WarmStarted, take
from study_operator.storage import trial_queries
from study_operator.storage.database import Database, one_row
from study_operator.storage.studies import METRIC_NAMES_ATTR, set_attribute

INITIAL_ATTR = "study_operator:initial_trials"
WARM_ATTR = "study_operator:warm_start"
_NAMES_SHOWN = 10


class InitialTrials:
    """Those of the studies of one cluster in one database.

    Every method blocks, so call it from the blocking pool. Every method raises StorageUnavailable when the database
    does not answer, and StorageError when the database refuses the statement.
    """

    def __init__(self, database: Database, cluster_id: str) -> None:
        self._database, self._cluster_id = database, cluster_id

    def enqueue(self, study: Study, study_id: int) -> None:
        """Store the Study's initial trials as `study.enqueue_trial` of Optuna does, once.

        The same transaction stores a note that this has been done.

        Raises:
            Refused: when they are not possible, or not those that have been stored.
        """
        if not study.initial_trials:
            return
        wishes = initial_trials(study)
        with self._database.transaction(study_id) as cursor:
            noted = _note_to_make(cursor, study_id, INITIAL_ATTR)
            if noted is not None and noted != wishes:
                raise Refused(
                    "InitialTrialsChanged",
                    "spec.initialTrials are fixed, and these have been started or are about to be: "
                    f"{json.dumps(noted)}; write them as they were, and use study.enqueue_trial of Optuna for others",
                )
            if noted is None:
                set_attribute(cursor, study_id, INITIAL_ATTR, wishes)
                _enqueue(cursor, study_id, wishes)

    def load(self, study: Study, study_id: int) -> tuple[list[StoredTrial], tuple[WarmStarted, ...]]:
        """Read the trials of earlier studies that a study begins with.

        Which trials these are is decided the first time, and noted in the database. So the sampler has the same ones
        after a restart, although the earlier study may have gone on. It has none of a study that was removed since.

        Args:
            study_id: Optuna's, of `study`.

        Returns:
            The trials, and what came of each study that the Study names.

        Raises:
            Refused: the first time, when a name is that of no study of this namespace. The message does not tell
                whether another namespace has a study of that name.
        """
        if not study.warm_start:
            return [], ()
        with self._database.transaction(study_id) as cursor:
            noted = _note_to_make(cursor, study_id, WARM_ATTR)
            there = self._stored(cursor, study)
            if noted is None:
                taken, came = self._decide(cursor, study, there)
                noted = {"trials": [trial.trial_id for trial in taken], "studies": [asdict(one) for one in came]}
                set_attribute(cursor, study_id, WARM_ATTR, noted)
            else:
                # The studies that were taken then: the name of a Study may be that of a later one by now.
                ids, wanted = {one.optuna: one.study_id for one in there}, noted["trials"]
                names = [one["study"] for one in noted["studies"]]
                sources = [_source(cursor, ids[name], name, wanted) for name in names if name in ids]
                taken = [trial for source in sources for trial in take(study, source)[0]]
            return taken, tuple(WarmStarted(**one) for one in noted["studies"])

    def _stored(self, cursor: cursor, study: Study) -> list[_Stored]:
        """Read the namespace's other studies, the latest first."""
        cursor.execute(
            "SELECT s.study_id, s.study_name, a.name FROM studies s JOIN study_operator.access a USING (study_id)"
            " WHERE a.cluster_id = %s AND a.namespace = %s AND a.uid <> %s ORDER BY s.study_id DESC",
            (self._cluster_id, study.namespace, study.uid),
        )
        return [_Stored(*row) for row in cursor.fetchall()]

    def _decide(
        self, cursor: cursor, study: Study, there: Sequence[_Stored]
    ) -> tuple[list[StoredTrial], list[WarmStarted]]:
        taken: list[StoredTrial] = []
        came: list[WarmStarted] = []
        sources: list[_Stored] = []
        for name in study.warm_start:
            found = next((one for one in there if name in (one.optuna, one.name)), None)
            if found is None:
                raise Refused("WarmStartRefused", _unknown(study, name, there))
            if found not in sources:  # one study may be named in both ways
                sources.append(found)
        for source in sources:
            trials, one = take(study, _source(cursor, source.study_id, source.optuna), MOST_TRIALS - len(taken))
            taken += trials
            came.append(one)
        return taken, came


class _Stored(NamedTuple):
    """A stored study: its id, its name in Optuna, and the name that its Study has or had."""

    study_id: int
    optuna: str
    name: str


def _note(cursor: cursor, study_id: int, key: str) -> Any:
    """Read a system attribute of a study; None if it has none of this name."""
    cursor.execute("SELECT value_json FROM study_system_attributes WHERE study_id = %s AND key = %s", (study_id, key))
    found = cursor.fetchone()
    return None if found is None else json.loads(found[0])


def _note_to_make(cursor: cursor, study_id: int, key: str) -> Any:
    """Read a note as `_note` does. If there is none, no other transaction can make it before this one ends."""
    if (noted := _note(cursor, study_id, key)) is None:
        cursor.execute("SELECT FROM studies WHERE study_id = %s FOR UPDATE", (study_id,))
        noted = _note(cursor, study_id, key)
    return noted


def _enqueue(cursor: cursor, study_id: int, wishes: Sequence[Mapping[str, Any]]) -> None:
    cursor.execute("SELECT count(*) FROM trials WHERE study_id = %s", (study_id,))
    (existing,) = one_row(cursor)
    for number, wish in enumerate(wishes, existing):
        cursor.execute(
            "INSERT INTO trials (number, study_id, state) VALUES (%s, %s, 'WAITING') RETURNING trial_id",
            (number, study_id),
        )
        cursor.execute(
            "INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (%s, %s, %s)",
            (*one_row(cursor), WISH_ATTR, json.dumps(wish)),
        )


def _unknown(study: Study, name: str, there: Sequence[_Stored]) -> str:
    names = [one.optuna for one in there]
    shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" if names[_NAMES_SHOWN:] else "")
    others = f"there are {shown}" if names else "there is no other one yet"
    return (
        f"warmStart: {name!r} is neither the name nor the status.studyName of a study of namespace {study.namespace} "
        f"that has begun; {others}. warmStart is fixed: delete this Study and create it with another name"
    )


def _source(cursor: cursor, study_id: int, name: str, only: Sequence[int] | None = None) -> Source:
    """Read a study as far as a warm start needs it; with `only`, just its trials with these trial_ids."""
    cursor.execute("SELECT direction::text FROM study_directions WHERE study_id = %s ORDER BY objective", (study_id,))
    directions = [direction for (direction,) in cursor.fetchall()]
    metric_names = _note(cursor, study_id, METRIC_NAMES_ATTR)
    cursor.execute(
        "SELECT state::text, count(*) FROM trials WHERE study_id = %s AND state IN ('COMPLETE', 'PRUNED', 'FAIL')"
        " GROUP BY 1",
        (study_id,),
    )
    ended = {TrialState[state]: count for state, count in cursor.fetchall()}
    cursor.execute(
        "SELECT t.trial_id, t.number, t.state::text, t.datetime_start, t.datetime_complete, r.constraint_values"
        " FROM trials t LEFT JOIN study_operator.results r USING (trial_id)"
        " WHERE t.study_id = %s AND t.state IN ('COMPLETE', 'PRUNED') AND (%s::int[] IS NULL OR t.trial_id = ANY(%s))"
        " ORDER BY t.number DESC LIMIT %s",
        (study_id, only, only, MOST_TRIALS),
    )
    found = list(reversed(cursor.fetchall()))
    ids = [row[0] for row in found]
    params, values = trial_queries.params_of(cursor, ids), trial_queries.values_of(cursor, ids)
    # Of complete trials samplers want the final values alone, of pruned ones the last report too. Pruners never see any
    # of these trials.
    pruned = trial_queries.last_reports_of(cursor, [row[0] for row in found if row[2] == "PRUNED"])
    reports = {report.trial_id: {report.step: report.value} for report in pruned}
    trials = [
        EarlierTrial(
            trial_id,
            number,
            TrialState[state],
            started,
            completed,
            values.get(trial_id),
            params[trial_id],
            reports.get(trial_id, {}),
        )
        for trial_id, number, state, started, completed, _ in found
    ]
    return Source(
        name,
        directions,
        metric_names,
        ended,
        trials,
        {row[0]: row[5] for row in found if row[5]},
    )
