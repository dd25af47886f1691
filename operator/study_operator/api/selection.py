"""Says which trials a list or a watch shows: what the database is asked for, and what is left out of its answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from study_operator.api import names
from study_operator.api.options import ListOptions
from study_operator.api.resources import DELETED_LABEL
from study_operator.api.selectors import Requirement, only
from study_operator.api.trial_objects import Identity
from study_operator.model.readable import ShownState, Where
from study_operator.model.study import STUDY_LABEL, TRIAL_LABEL


@dataclass(frozen=True)
class Selection:
    """Some trials.

    Attributes:
        where: what the database is asked for: no more than `matches` lets pass, as far as the database can tell.
        labels, fields: what each trial must have.
        nothing: no trial can be meant.
    """

    where: Where
    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, trial: Identity) -> bool:
        """Return whether a trial is one of them."""
        where = self.where
        if self.nothing or trial.deleted != where.deleted or where.namespace not in (None, trial.namespace):
            return False
        labels, fields = trial.labels(), trial.fields()
        return all(one.matches(labels) for one in self.labels) and all(one.matches(fields) for one in self.fields)

    def may_match(self, namespace: str, study: str) -> bool:
        """Return whether any trial of a study can be one of them."""
        where = self.where
        return not self.nothing and where.namespace in (None, namespace) and where.study in (None, study)


def select(options: ListOptions, namespace: str | None) -> Selection:
    """Return the selection that a request asks for.

    Trials of deleted Studies are shown only to whoever asks for them, by the label `study-operator.io/deleted`.

    Args:
        namespace: None for all.
    """
    where = Where(namespace=namespace, deleted=_asks_for_deleted(options.labels))
    spaces = only(options.fields, "metadata.namespace")
    studies = _both(only(options.labels, STUDY_LABEL), only(options.fields, "spec.study"))
    numbers = only(options.labels, TRIAL_LABEL)
    states = only(options.fields, "status.state")
    found = only(options.fields, "metadata.name")
    nothing = any(values == frozenset() for values in (spaces, studies, numbers, states, found))
    if spaces is not None and len(spaces) == 1:
        (space,) = spaces
        nothing |= namespace not in (None, space)
        where = replace(where, namespace=space)
    if studies is not None and len(studies) == 1:
        where = replace(where, study=next(iter(studies)))
    if numbers is not None and len(numbers) == 1:
        (digits,) = numbers
        nothing |= not (digits.isascii() and digits.isdecimal() and len(digits) <= 9)
        where = where if nothing else replace(where, number=int(digits))
    if states is not None:
        known = frozenset(state for state in ShownState if state in states)
        nothing |= not known
        where = replace(where, states=known)
    if found is not None and len(found) == 1 and not nothing:
        named = _named(next(iter(found)), where)
        nothing, where = (True, where) if named is None else (False, named)
    return Selection(where, options.labels, options.fields, nothing)


def _named(name: str, where: Where) -> Where | None:
    """Return where a trial of some name is; None if it cannot be what else is asked for."""
    for named in names.trials_named(name):
        if bool(named.uid) != where.deleted:
            continue
        if where.study not in (None, named.study) or where.number not in (None, named.number):
            return None
        return replace(where, study=named.study, number=named.number, uid=named.uid or None)
    return None


def _asks_for_deleted(labels: tuple[Requirement, ...]) -> bool:
    """Return whether a selector is one that only trials of deleted Studies have."""
    asked = [one for one in labels if one.key == DELETED_LABEL]
    return (
        bool(asked)
        and all(one.matches({DELETED_LABEL: "true"}) for one in asked)
        and not any(one.matches({}) for one in asked)
    )


def _both(first: frozenset[str] | None, second: frozenset[str] | None) -> frozenset[str] | None:
    """Return what is in both of two sets, of which None has everything."""
    if first is None or second is None:
        return second if first is None else first
    return first & second
