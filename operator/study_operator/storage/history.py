"""A study's history: every trial whole, in one statement that the server aggregates; and what others have changed.

Triggers on Optuna's tables note down what other programs than the operator change (mirror.sql), so that only those
trials are read again.

User attributes are not read, but for the operator's own: they are the users', up to 64 KiB each, and no sampler and no
pruner looks at them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg2.extensions import cursor

from study_operator.model.history import Changes, History, StoredStudy, StoredTrial
from study_operator.model.thinning import MOST_STEPS
from study_operator.model.trial import TrialState
from study_operator.storage.database import DELETED, Database, StorageError
from study_operator.storage.trial_queries import INFINITIES

# One row a trial: ten thousand of twenty reports each are 200,000 rows less to send and to take apart.
# Reports may be millions, so they are read only as far as anybody looks at them. Samplers want the highest step of a
# trial. Some pruners compare with the steps of complete trials: those are thinned out as in model/thinning.py, in the
# same places.
_TRIALS = """
    WITH wanted AS MATERIALIZED (
        SELECT trial_id, number, state::text AS state, datetime_start, datetime_complete FROM trials
        WHERE study_id = %(study)s AND (%(only)s::int[] IS NULL OR trial_id = ANY(%(only)s)))
    SELECT w.trial_id, w.number, w.state, w.datetime_start, w.datetime_complete, p.names, p.vals, p.kinds,
           v.vals, v.kinds, r.steps, r.vals, r.kinds, u.keys, u.vals, s.keys, s.vals
    FROM wanted w
    LEFT JOIN (SELECT trial_id, array_agg(param_name ORDER BY param_id) AS names,
                      array_agg(param_value ORDER BY param_id) AS vals,
                      array_agg(distribution_json ORDER BY param_id) AS kinds
               FROM trial_params JOIN wanted USING (trial_id) GROUP BY 1) p USING (trial_id)
    LEFT JOIN (SELECT trial_id, array_agg(value ORDER BY objective) AS vals,
                      array_agg(value_type::text ORDER BY objective) FILTER (WHERE value_type <> 'FINITE') AS kinds
               FROM trial_values JOIN wanted USING (trial_id) GROUP BY 1) v USING (trial_id)
    LEFT JOIN (SELECT trial_id, array_agg(step ORDER BY trial_intermediate_value_id) AS steps,
                      array_agg(intermediate_value ORDER BY trial_intermediate_value_id) AS vals,
                      array_agg(intermediate_value_type::text ORDER BY trial_intermediate_value_id)
                      FILTER (WHERE intermediate_value_type <> 'FINITE') AS kinds
               FROM (
                   SELECT h.trial_id, h.step, h.intermediate_value, h.intermediate_value_type,
                          h.trial_intermediate_value_id
                   FROM wanted, LATERAL (
                       SELECT * FROM trial_intermediate_values i WHERE i.trial_id = wanted.trial_id
                       ORDER BY step DESC LIMIT 1) h
                   WHERE NOT (%(compared)s AND wanted.state = 'COMPLETE')
                   UNION ALL
                   SELECT trial_id, step, intermediate_value, intermediate_value_type, trial_intermediate_value_id
                   FROM (SELECT i.*, row_number() OVER (of_trial ORDER BY trial_intermediate_value_id) AS nth,
                                count(*) OVER of_trial AS count, max(step) OVER of_trial AS highest
                         FROM trial_intermediate_values i JOIN wanted USING (trial_id)
                         WHERE %(compared)s AND wanted.state = 'COMPLETE'
                         WINDOW of_trial AS (PARTITION BY trial_id)) i
                   WHERE (nth - 1) %% (1 << length(ltrim(((count - 1) / %(most)s)::bit(32)::text, '0'))) = 0
                         OR step = highest) chosen GROUP BY 1) r USING (trial_id)
    LEFT JOIN (SELECT trial_id, array_agg(key ORDER BY trial_user_attribute_id) AS keys,
                      array_agg(value_json ORDER BY trial_user_attribute_id) AS vals
               FROM trial_user_attributes JOIN wanted USING (trial_id)
               WHERE starts_with(key, 'study_operator:') GROUP BY 1) u USING (trial_id)
    LEFT JOIN (SELECT trial_id, array_agg(key ORDER BY trial_system_attribute_id) AS keys,
                      array_agg(value_json ORDER BY trial_system_attribute_id) AS vals
               FROM trial_system_attributes JOIN wanted USING (trial_id) GROUP BY 1) s USING (trial_id)
    ORDER BY w.number, w.trial_id
"""
_STUDY = """
    SELECT s.study_name,
           ARRAY(SELECT d.direction::text FROM study_directions d WHERE d.study_id = s.study_id ORDER BY d.objective),
           ARRAY(SELECT ARRAY[a.key, a.value_json] FROM study_system_attributes a WHERE a.study_id = s.study_id),
           ARRAY(SELECT ARRAY[a.key, a.value_json] FROM study_user_attributes a
                 WHERE a.study_id = s.study_id AND starts_with(a.key, 'study_operator:'))
    FROM studies s WHERE s.study_id = %s
"""
_TAKE = (
    "WITH taken AS (DELETE FROM study_operator.changes WHERE study_id = %s RETURNING trial_id)"
    " SELECT coalesce(array_agg(DISTINCT trial_id), '{}') FROM taken"
)


def load(database: Database, study_id: int, compared: bool = True) -> History:
    """Read a study whole. What others change from now on is noted down.

    Args:
        compared: whether the study's pruner compares a trial with the reports of complete trials.

    Raises:
        StorageError: the study was deleted meanwhile.
        StorageUnavailable: the database does not answer.
        StorageError: the database refuses it.
    """
    with database.transaction() as cursor:
        cursor.execute("SELECT FROM study_operator.changes WHERE study_id = %s LIMIT 1", (study_id,))
        changed = cursor.fetchone() is not None
    if changed:
        forget_changes(database, study_id)  # before the rows are read: no change in between is missed then
    with database.transaction() as cursor:
        return History(study_id, study(cursor, study_id), trials(cursor, study_id, compared=compared))


def take_changes(database: Database, study_id: int, compared: bool = True) -> Changes:
    """Read what others have changed since `load` or the last call.

    Args:
        compared: as in `load`.

    Raises:
        StorageUnavailable, StorageError: as `load`. Some changes may have been lost on the way: load the study anew.
    """
    changed = forget_changes(database, study_id)
    if not changed:
        return Changes(None, ())
    with database.transaction() as cursor:
        attributes = study(cursor, study_id) if 0 in changed else None
        return Changes(attributes, trials(cursor, study_id, changed, compared))


def forget_changes(database: Database, study_id: int) -> list[int]:
    """Delete the notes of what others have changed.

    Returns:
        The ids of the changed trials; 0 stands for the study's own attributes.

    Raises:
        StorageUnavailable, StorageError: as `load`.
    """
    (trial_ids,) = database.write(study_id, _TAKE, (study_id,))
    return sorted(trial_ids)


def study(cursor: cursor, study_id: int) -> StoredStudy:
    """Read a study without its trials.

    Raises:
        StorageError: there is no study with this id.
    """
    cursor.execute(_STUDY, (study_id,))
    found = cursor.fetchone()
    if found is None:
        raise StorageError(DELETED)
    name, directions, system, user = found
    attrs = ({key: json.loads(text) for key, text in pairs} for pairs in (system, user))
    return StoredStudy(name, directions, *attrs)


def trials(
    cursor: cursor, study_id: int, only: Sequence[int] | None = None, compared: bool = True
) -> list[StoredTrial]:
    """Read every trial of a study, or those with these ids, in order of number."""
    chosen = {"only": None if only is None else list(only), "compared": compared, "most": MOST_STEPS}
    cursor.execute(_TRIALS, {"study": study_id, **chosen})
    return [_trial(row) for row in cursor.fetchall()]


def _trial(row: tuple[Any, ...]) -> StoredTrial:
    trial_id, number, state, started, completed, names, params, texts, values, kinds, *rest = row
    steps, reports, report_kinds, user_keys, user, system_keys, system = rest
    return StoredTrial(
        trial_id=trial_id,
        number=number,
        state=TrialState[state],
        started_at=started,
        completed_at=completed,
        values=None if values is None else _numbers(values, kinds),
        names=names or (),
        params=params or (),
        distributions=texts or (),
        user_attrs=dict(zip(user_keys or (), map(json.loads, user or ()), strict=True)),
        system_attrs=dict(zip(system_keys or (), map(json.loads, system or ()), strict=True)),
        reports=dict(zip(steps or (), _numbers(reports or [], report_kinds), strict=True)),
    )


def _numbers(values: Sequence[float | None], kinds: Sequence[str] | None) -> list[float]:
    """Put infinities and NaN in the places of NULL. Optuna stores them as words, which come in order."""
    words = iter(kinds or ())
    return [INFINITIES[next(words)] if value is None else value for value in values]
