"""The metrics that Prometheus scrapes. Durations are in seconds."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
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
FAILURES = Counter(
    "study_operator_trial_failures_total",
    "Failures of trials by class (program, infrastructure, infeasible, terminated) and reason.",
    ["class", "reason"],
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
    "Watches that were broken off, by what they watch (studies, jobs, namespaces), and were begun anew.",
    ["watch"],
)
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


REFUSED_CALLS = RefusedCalls()
REGISTRY.register(REFUSED_CALLS)
