"""Looks at what an optimizer process has answered, before it is stored.

A sampler may be a plug-in, and an optimizer process holds studies of several namespaces. Whatever it answers, it can
only write about trials of the study that was asked about, only name that study's Jobs, and only suggest parameters of
its search space.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from study_operator.model.batch import PROVISIONAL, Batch, Change
from study_operator.model.study import Study
from study_operator.model.trial import JOB_ATTR, TrialState


class WrongAnswer(Exception):
    """An optimizer process has answered what nobody may answer."""


def check_batch(batch: Batch, study: Study, known: Collection[int], most_new: int = 0) -> None:
    """Check a batch.

    Args:
        known: trial_ids of the study's trials.
        most_new: how many trials may be new.

    Raises:
        WrongAnswer: it says what is wrong.
    """
    new = [change for change in batch.trials.values() if change.new]
    if len(new) > most_new:
        raise WrongAnswer(f"{len(new)} new trials, where {most_new} may be new")
    numbers = [change.number for change in new]
    if numbers != list(range(len(known), len(known) + len(new))):
        raise WrongAnswer(f"new trials have the numbers {numbers}, and the next one is {len(known)}")
    for change in batch.trials.values():
        if not change.new and change.trial_id not in known:
            raise WrongAnswer(f"a trial of another study, {change.trial_id}")
        _check_change(change, study)


def _check_change(change: Change, study: Study) -> None:
    job, first = change.system_attrs.get(JOB_ATTR), study.job_name(change.number)
    if job is not None and not (isinstance(job, str) and (job == first or job.startswith(f"{first}-r"))):
        raise WrongAnswer(f"trial {change.number} has the Job {job!r}")
    if change.new and (change.state is not TrialState.RUNNING or job is None):
        raise WrongAnswer(f"trial {change.number} is new, and does not run as a Job of the study")
    if unknown := change.params.keys() - study.space.distributions.keys():
        raise WrongAnswer(f"trial {change.number} has parameters that the Study does not have: {sorted(unknown)[:3]}")
    if change.trial_id >= 2 * PROVISIONAL:
        raise WrongAnswer(f"trial {change.number} has an id that is none")


def check_ids(found: Iterable[int], allowed: Collection[int]) -> None:
    """Check that trials are among those that were asked about. Raises WrongAnswer."""
    if unknown := set(found) - set(allowed):
        raise WrongAnswer(f"trials that nobody asked about: {sorted(unknown)[:3]}")
