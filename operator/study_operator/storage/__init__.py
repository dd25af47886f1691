"""PostgreSQL: Optuna's own tables, and the operator's beside them.

All SQL is here. `reporting.sql` is everything that a trial's pod may do. Rows come out as plain values of `model`, and
batches of changes go in. This package may not decide anything about a trial, and knows neither Kubernetes nor
samplers.
"""
