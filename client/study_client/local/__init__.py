"""Runs a Study's first trials as processes of this machine: `kubectl study run --local study.yaml`.

`study_file` reads the Study, with the operator's own checks. `session` is the study in memory: the operator's sampler
and pruner over the trials, and what trials report, by `reporting` (the socket that `study_trial` speaks to) or
`printed` (what a program prints). `programs` makes a process of a trial's pod, and says what of the pod cannot be here;
`processes` starts it and ends it. `runner` is the loop over both, and `shown` prints the trials as the trials API has
them.

There is no cluster, no database and no second rule: what the operator decides is decided by its own code.
"""

from study_client.local.runner import run_local

__all__ = ["run_local"]
