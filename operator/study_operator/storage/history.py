"""The history of a study, read whole: every trial as Optuna's own, in one statement that the server aggregates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from psycopg2.extensions import cursor

from study_operator.model.trial import TrialState
from study_operator.storage.queries import INFINITIES

# One row a trial: ten thousand of twenty reports each are 200,000 rows less to send and to take apart.
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
               FROM trial_intermediate_values JOIN wanted USING (trial_id) GROUP BY 1) r USING (trial_id)
    LEFT JOIN (SELECT trial_id, array_agg(key ORDER BY trial_user_attribute_id) AS keys,
                      array_agg(value_json ORDER BY trial_user_attribute_id) AS vals
               FROM trial_user_attributes JOIN wanted USING (trial_id) GROUP BY 1) u USING (trial_id)
    LEFT JOIN (SELECT trial_id, array_agg(key ORDER BY trial_system_attribute_id) AS keys,
                      array_agg(value_json ORDER BY trial_system_attribute_id) AS vals
               FROM trial_system_attributes JOIN wanted USING (trial_id) GROUP BY 1) s USING (trial_id)
    ORDER BY w.number, w.trial_id
"""
_STUDY = """
    SELECT s.study_name,
           ARRAY(SELECT d.direction::text FROM study_directions d WHERE d.study_id = s.study_id ORDER BY d.objective),
           ARRAY(SELECT ARRAY[a.key, a.value_json] FROM study_system_attributes a WHERE a.study_id = s.study_id),
           ARRAY(SELECT ARRAY[a.key, a.value_json] FROM study_user_attributes a WHERE a.study_id = s.study_id)
    FROM studies s WHERE s.study_id = %s
"""


@dataclass(frozen=True)
class StudyRow:
    """What a study has besides its trials."""

    name: str
    directions: list[StudyDirection]
    system_attrs: dict[str, Any]
    user_attrs: dict[str, Any]


def study(cursor: cursor, study_id: int) -> StudyRow:
    """A study without its trials.

    Raises:
        KeyError: there is none with this id.
    """
    cursor.execute(_STUDY, (study_id,))
    found = cursor.fetchone()
    if found is None:
        raise KeyError(f"there is no study with the id {study_id}")
    name, directions, system, user = found
    attrs = ({key: json.loads(text) for key, text in pairs} for pairs in (system, user))
    return StudyRow(name, [StudyDirection[direction] for direction in directions], *attrs)


def trials(cursor: cursor, study_id: int, only: Sequence[int] | None = None) -> list[FrozenTrial]:
    """Every trial of a study, or those with these ids, in order of number. Trials with the same parameters share one
    dictionary of their distributions."""
    cursor.execute(_TRIALS, {"study": study_id, "only": None if only is None else list(only)})
    distributions = _Distributions()
    return [_trial(row, distributions) for row in cursor.fetchall()]


class _Distributions:
    """Those of a trial's parameters, by their names and texts: parsing them is the slow part, and a study has few."""

    def __init__(self) -> None:
        self._parsed: dict[str, BaseDistribution] = {}
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, BaseDistribution]] = {}

    def of(self, names: Sequence[str], texts: Sequence[str]) -> dict[str, BaseDistribution]:
        key = tuple(names), tuple(texts)
        if key not in self._known:
            self._known[key] = {name: self._parse(text) for name, text in zip(names, texts, strict=True)}
        return self._known[key]

    def _parse(self, text: str) -> BaseDistribution:
        if text not in self._parsed:
            self._parsed[text] = json_to_distribution(text)
        return self._parsed[text]


def _trial(row: tuple, known: _Distributions) -> FrozenTrial:
    trial_id, number, state, started, completed, names, params, texts, values, kinds, *rest = row
    steps, reports, report_kinds, user_keys, user, system_keys, system = rest
    distributions = known.of(names or (), texts or ())
    return FrozenTrial(
        number=number,
        state=TrialState[state],
        value=None,
        values=None if values is None else _numbers(values, kinds),
        datetime_start=started,
        datetime_complete=completed,
        params={
            name: distribution.to_external_repr(value)
            for (name, distribution), value in zip(distributions.items(), params or (), strict=True)
        },
        distributions=distributions,
        user_attrs=dict(zip(user_keys or (), map(json.loads, user or ()), strict=True)),
        system_attrs=dict(zip(system_keys or (), map(json.loads, system or ()), strict=True)),
        intermediate_values=dict(zip(steps or (), _numbers(reports or [], report_kinds), strict=True)),
        trial_id=trial_id,
    )


def _numbers(values: list[float | None], kinds: Sequence[str] | None) -> list[float]:
    """Values with what Optuna stores as a word in their places; the words come in order."""
    if kinds is None:
        return values  # type: ignore[return-value]
    words = iter(kinds)
    return [INFINITIES[next(words)] if value is None else value for value in values]
