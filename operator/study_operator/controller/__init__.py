"""Which study is reconciled, when, and by which replica.

`controller` has the workers, the event handlers, readiness and the sweep. `study_watch` and `job_watch` bring events
in, as keys of studies; `namespaces` says in which namespaces these may be; `workqueue` holds the keys, each once.
`replicas` takes and keeps the locks of the studies that this replica serves; which those are to be is decided in
`model.placement`, and for how long a lock is certain in `fence`. `outage` decides whether a Study's status says that
the database is away. `reporter_guard` watches the login that trials' pods share, and `database_usage` measures how full
the server is.

This package knows nothing of trials: what has to be done for a study is decided in `model` and done in `reconcile`.
"""
