"""One pass over one study: observe, plan, act, publish.

`reconciler` is the order of the steps. `acceptance` says whether the Study can be run as it is written. `live_study`
and `study_trials` are what is held in memory. `actor` does what `model.plan` has decided, and `publisher` writes status
and Events. This package may not know why a study is reconciled now, or what other studies do.
"""
