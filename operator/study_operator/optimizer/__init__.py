"""Optuna over one study in memory.

What is named here is the only door, and `make lint` keeps it so: rows and reports go in, suggestions and decisions
come out, all as plain values of `model`. Behind it: `study_optimizer` is the door's class. `sampling` asks one study's
sampler for trials, and its pruner whether to give one up; `samplers` and `pruners` build them from the Study by name,
with `option_checks` against Optuna's signatures, and `plugins` builds samplers that are not Optuna's. `randomness` lets
a suggestion follow from seed and number. `memory` is the study's trials as an Optuna storage, and `frozen_trials` makes
them from rows. `exhaustive` (Grid, BruteForce, over the `cells` of a finite search space), `genetic` (NSGAII, NSGAIII)
and `tpe` are Optuna's samplers with what they lack. `distributions` are the Study's as Optuna's. `convergence` says
whether more trials would help.

This package does no I/O. It may not know the database, Kubernetes, or where its caller runs.
"""

from study_operator.optimizer.study_optimizer import Loading, StudyOptimizer, check

__all__ = ["Loading", "StudyOptimizer", "check"]
