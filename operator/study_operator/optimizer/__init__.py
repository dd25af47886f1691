"""Optuna over one study in memory: samplers, pruners, convergence, the Pareto front.

`study_optimizer` is the only door, and `make lint` keeps it so: rows and reports go in, suggestions and decisions come
out, all as plain values of `model`. This package does no I/O. It may not know the database, Kubernetes, or where its
caller runs.
"""
