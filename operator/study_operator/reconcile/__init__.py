"""One pass over one study: observe, plan, act, publish.

`reconciler` is the order of the steps. `marks` sees to it that no other operator serves the study, and that its rows
are in this database. `acceptance` says whether the Study can be run as it is written: it sends the Job template to the
API server as a dry run. `intake` counts what all Studies take together. `live_study` and `study_trials` are what is
held in memory: what exists in Kubernetes, and the rows with the optimizer over them. `continued_rows` lets a new Study
go on with an earlier one's. `observer` reads Jobs, pods and rows, and `result` says when to look again. `actor` does
what `model.plan` has decided; `ended_programs` asks pods that are not ready any more whether their program has ended;
`study_secret` keeps login and CA of running pods up to date, `dependents` are the claims and the Service beside Jobs,
`adoption` says whether an object that exists already is ours, and `concurrency` makes many calls at once. `stuck_jobs`
asks for the Events of Jobs that get no pod, and has them tried again; `silent_pods` looks into logs for pods that
cannot reach the database. `publisher` writes the status and decides which Events there are; `event_recorder` writes an
Event. `deleted_studies` ends and removes the rows of Studies that are gone.

This package may not know why a study is reconciled now, or, but for `intake`, what other studies do.
"""
