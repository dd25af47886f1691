"""What must be so at every moment of a study, whatever happens to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from records import Records
from world import Manifest, has_ended, number_of, params_of

from study_operator.model.study import TRIAL_ID_ANNOTATION


class Watcher:
    """An eye on the Studies of one name.

    Attributes:
        deleted: whether there is none at the moment.
        spec: of the one there is, or was last.
        deleted_jobs: names of those that users have deleted.
    """

    def __init__(self) -> None:
        self.deleted = False
        self.spec: dict[str, Any] = {}
        self.deleted_jobs: set[str] = set()
        self._most_trials = 0
        self._most_active = 0
        self._uids: dict[str, str] = {}
        self._ends: dict[int, tuple] = {}

    def begin(self, study: Manifest) -> None:
        """A Study is made."""
        self.deleted, self._most_trials, self._most_active = False, 0, 0
        self._uids.clear()
        self.edited(study)

    def edited(self, study: Manifest) -> None:
        self.spec = study["spec"]
        self._uid = study["metadata"]["uid"]
        self._most_trials = max(self._most_trials, self.spec["maxTrials"])
        self._most_active = max(self._most_active, self.spec["parallelism"])

    def job_deleted(self, name: str) -> None:
        """Somebody has deleted a Job: if nobody knew that there had been one, it is made again."""
        self._uids.pop(name, None)
        self.deleted_jobs.add(name)

    def check(self, known: Mapping[str, Records], jobs: Sequence[Manifest]) -> None:
        """
        Args:
            known: the records of all Studies that have or had the name.
            jobs: all Jobs of these Studies, listed before the records were read.

        Raises:
            AssertionError: with what must never be.
        """
        for records in known.values():
            self._check_rows(records)
        if not self.deleted and self._uid in known:
            ours = [job for job in jobs if job["metadata"]["ownerReferences"][0]["uid"] == self._uid]
            self._check_jobs(known[self._uid], ours)

    def _check_rows(self, records: Records) -> None:
        assert [trial.number for trial in records.trials] == list(range(len(records.trials))), "no gap, none twice"
        for trial in records.trials:
            if trial.state not in ("RUNNING", "WAITING"):
                assert self._ends.setdefault(trial.trial_id, trial.end) == trial.end, "told once"
        if records.uid == self._uid:
            assert len(records.started()) <= self._most_trials, "no more than maxTrials"

    def _check_jobs(self, records: Records, jobs: Sequence[Manifest]) -> None:
        active = [number_of(job) for job in jobs if not has_ended(job)]
        assert len(set(active)) == len(active), "no two live Jobs for one trial"
        assert len(active) <= self._most_active, "no more live Jobs than parallelism"
        # Lowering it ends nothing, but what has ended is not followed by more than it allows.
        self._most_active = max(self.spec["parallelism"], len(active))
        by_number = {trial.number: trial for trial in records.trials}
        for job in jobs:
            number, name = number_of(job), job["metadata"]["name"]
            uid = self._uids.setdefault(name, job["metadata"]["uid"])
            assert uid == job["metadata"]["uid"], "each Job is made once"
            assert number in by_number, "the row comes before the Job"
            trial = by_number[number]
            assert job["metadata"]["annotations"][TRIAL_ID_ANNOTATION] == str(trial.trial_id)
            assert len(params_of(job)) == trial.params, "all parameters are stored with the row"
