"""Names of what the trials API serves: its group, its resources, and what may be done with each."""

from __future__ import annotations

from dataclasses import dataclass

from study_operator.model.study import GROUP as STUDY_GROUP

GROUP, VERSION = "results.study-operator.io", "v1alpha1"
GROUP_VERSION = f"{GROUP}/{VERSION}"
DELETED_LABEL = f"{STUDY_GROUP}/deleted"


@dataclass(frozen=True)
class Resource:
    """One resource, or one subresource.

    Attributes:
        name: its plural; of a subresource "resource/subresource".
        singular: its singular; empty for a subresource.
        kind: of the objects that it answers with.
        verbs: what may be done with it. None has `delete`: the garbage collector, the namespace controller and quotas
            list and watch whatever can be deleted.
        short: short names for kubectl.
    """

    name: str
    singular: str
    kind: str
    verbs: tuple[str, ...]
    short: tuple[str, ...] = ()

    @property
    def list_kind(self) -> str:
        """The kind of a list of its objects."""
        return f"{self.kind}List"


TRIALS = Resource("studytrials", "studytrial", "StudyTrial", ("get", "list", "watch"), ("stt",))
REPORTS = Resource("studytrials/reports", "", "StudyTrialReports", ("get",))
SETS = Resource("studytrialsets", "studytrialset", "StudyTrialSet", ("get", "list"), ("stts",))
STOP = Resource("studytrials/stop", "", "StudyTrialStop", ("create",))
PURGE = Resource("studytrialsets/purge", "", "StudyTrialSetPurge", ("create",))
# None is named `studies`: `kubectl get studies` must stay the Study's.
RESOURCES = (TRIALS, REPORTS, STOP, SETS, PURGE)
