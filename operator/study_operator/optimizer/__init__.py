"""Optuna over one study in memory: samplers, pruners, convergence, the Pareto front.

What is named here is the only door, and `make lint` keeps it so: rows and reports go in, suggestions and decisions
come out, all as plain values of `model`. This package does no I/O. It may not know the database, Kubernetes, or where
its caller runs.
"""

from study_operator.optimizer.pareto import front as pareto_front
from study_operator.optimizer.samplers import is_finite
from study_operator.optimizer.study_optimizer import StudyOptimizer, check

__all__ = ["StudyOptimizer", "check", "is_finite", "pareto_front"]
