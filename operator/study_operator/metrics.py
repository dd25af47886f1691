"""The metrics that Prometheus scrapes. Durations are in seconds."""

from __future__ import annotations

import time
from collections import Counter as Counted
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

RECONCILE = Histogram("study_operator_reconcile_seconds", "One look at one study, with all it led to.", buckets=_FAST)
SUGGEST = Histogram("study_operator_suggest_seconds", "One suggestion of a sampler.", buckets=_FAST)
REPORT_TO_DECISION = Histogram(
    "study_operator_report_to_decision_seconds",
    "From the notification of a report to the pruner's decision about it.",
    buckets=_FAST,
)
SLOT_FREE_TO_JOB = Histogram(
    "study_operator_slot_free_to_job_seconds",
    "From the event that a trial's Job has ended to the creation of the next trial's Job.",
    buckets=_FAST,
)
TRIALS = Gauge("study_operator_trials", "Trials of the studies being served.", ["namespace", "study", "state"])
NOT_SERVED = Gauge(
    "study_operator_studies_not_served",
    "Studies that this operator leaves alone: anothers (another installation serves it), lost (its rows are not here).",
    ["namespace", "study", "reason"],
)
FAILURES = Counter(
    "study_operator_trial_failures_total",
    "Failures of trials by class (program, infrastructure, infeasible, terminated) and reason.",
    ["class", "reason"],
)
OPTIMIZER_ENDS = Counter(
    "study_operator_optimizer_ends_total",
    "Optimizer processes that have ended in the middle of a request, by how (time, memory, died, away).",
    ["how"],
)
QUEUE_DEPTH = Gauge("study_operator_queue_depth", "Studies that wait to be looked at.")
STUDIES_SERVED = Gauge("study_operator_studies_served", "Studies whose locks this replica holds.")
REPLICAS = Gauge("study_operator_replicas", "Replicas that this one sees, itself included; 0 while it has no locks.")
TAKEOVERS = Counter(
    "study_operator_takeovers_total",
    "Studies taken over from a replica that had not let go of them: it had died or stopped.",
)
LOGINS_HEALED = Counter(
    "study_operator_logins_healed_total",
    "Logins of pods that were changed and have been set right, by namespace (empty: the login that all share).",
    ["namespace"],
)
SESSIONS_ENDED = Counter(
    "study_operator_sessions_ended_total", "Sessions of pods that had lifted a limit, or held a lock, and were ended."
)
WATCHES_BROKEN = Counter(
    "study_operator_watches_broken_total",
    "Watches that were broken off, by what they watch (studies, jobs, namespaces), and were opened again.",
    ["watch"],
)
DATABASE_CONNECTIONS = Gauge(
    "study_operator_database_connections",
    "Connections to the database server: of this operator's login (operator), and of all others (others).",
    ["login"],
)
DATABASE_CONNECTIONS_MOST = Gauge(
    "study_operator_database_connections_most", "How many connections the database server takes: max_connections."
)
DATABASE_SIZE = Gauge("study_operator_database_size_bytes", "Size of the database on disk.")
BUILD = Gauge("study_operator_build_info", "Always 1; the version of this operator.", ["version"])
LAST_PROGRESS = Gauge(
    "study_operator_last_progress_timestamp_seconds", "When the event loop last made progress, seconds since 1970."
)


class RefusedCalls(Collector):
    """Calls of pods that the database has refused, as the database counts them.

    Attributes:
        counts: calls by reason; empty until the database has been asked.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the one metric."""
        family = CounterMetricFamily(
            "study_operator_refused_calls",
            "Calls of trials' pods that the database has refused, of all studies since it was made.",
            labels=["reason"],
        )
        for reason, count in self.counts.items():
            family.add_metric([reason], count)
        yield family


class RefusedStudies(Collector):
    """Studies that this replica serves and that cannot be run as they are written.

    Attributes:
        reasons: the reason of the Accepted condition, by namespace and name.
    """

    def __init__(self) -> None:
        self.reasons: dict[tuple[str, str], str] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the one metric."""
        family = GaugeMetricFamily(
            "study_operator_studies_refused",
            "Studies served here whose condition Accepted is False, by its reason.",
            labels=["namespace", "reason"],
        )
        counts = Counted((namespace, reason) for (namespace, _), reason in list(self.reasons.items()))
        for labels, count in counts.items():
            family.add_metric(labels, count)
        yield family


REFUSED_STUDIES = RefusedStudies()
REGISTRY.register(REFUSED_STUDIES)
REFUSED_CALLS = RefusedCalls()
REGISTRY.register(REFUSED_CALLS)


class StudySizes(Collector):
    """What studies take in the database.

    Attributes:
        taken: trials, reports and bytes, by namespace and name of the study; empty until the database has been asked.
    """

    def __init__(self) -> None:
        self.taken: Mapping[tuple[str, str], tuple[int, int, int]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield one metric for each."""
        names = ["namespace", "study"]
        families = (
            GaugeMetricFamily("study_operator_study_rows", "Trials of a study in the database.", labels=names),
            GaugeMetricFamily("study_operator_study_reports", "Reports of a study's trials.", labels=names),
            GaugeMetricFamily(
                "study_operator_study_bytes",
                "About how many bytes the reports and user attributes of a study's trials take.",
                labels=names,
            ),
        )
        for study, counts in self.taken.items():
            for family, count in zip(families, counts, strict=True):
                family.add_metric(study, count)
        yield from families


STUDY_SIZES = StudySizes()
REGISTRY.register(STUDY_SIZES)

try:
    BUILD.labels(version("study-operator")).set(1)
except PackageNotFoundError:  # run from a checkout that is not installed
    BUILD.labels("unknown").set(1)


class LongestLooks(Collector):
    """The longest looks of the last minutes, those that are going on included. Few series, however many studies.

    Args:
        clock: seconds, monotonic.

    Attributes:
        going_on: returns for how many seconds looks have been going on, by namespace and study. Any thread may call it.
    """

    _SERIES, _SHORTEST_SECONDS, _PERIOD_SECONDS = 5, 1.0, 300.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.going_on: Callable[[], Mapping[tuple[str, str], float]] = dict
        self._clock, self._since = clock, clock()
        self._now: dict[tuple[str, str], float] = {}
        self._before: dict[tuple[str, str], float] = {}

    def ended(self, namespace: str, study: str, seconds: float) -> None:
        """Note that a look has ended."""
        self._turn()
        if seconds >= self._SHORTEST_SECONDS:
            self._now[namespace, study] = max(seconds, self._now.get((namespace, study), 0.0))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the one metric."""
        self._turn()
        found = dict(self._before)
        for one in (dict(self._now), self.going_on()):
            for key, seconds in one.items():
                found[key] = max(seconds, found.get(key, 0.0))
        family = GaugeMetricFamily(
            "study_operator_longest_look_seconds",
            "The longest looks at one study of the last five to ten minutes, of the five studies with the longest.",
            labels=["namespace", "study"],
        )
        longest = sorted(found.items(), key=lambda one: one[1], reverse=True)[: self._SERIES]
        for key, seconds in longest:
            if seconds >= self._SHORTEST_SECONDS:
                family.add_metric(list(key), seconds)
        yield family

    def _turn(self) -> None:
        passed = self._clock() - self._since
        if passed > self._PERIOD_SECONDS:
            self._before = self._now if passed < 2 * self._PERIOD_SECONDS else {}
            self._now, self._since = {}, self._clock()


LONGEST_LOOKS = LongestLooks()
REGISTRY.register(LONGEST_LOOKS)
