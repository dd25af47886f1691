"""PostgreSQL: Optuna's own tables, and the operator's beside them. All SQL is here.

`reporting.sql` is everything that a trial's pod may do, `tables.sql` is what the operator keeps, `mirror.sql` stores
batches and notes what others write; `migrate` applies them, and `blockers` ends what holds it up. `identity.sql` says
which database this is, and `whereabouts` asks it; `continuing` gives the rows of a Study that is gone to the one that
was made in its place. `database` has transactions and errors. `studies` is a study's own row: its key, its hold, its
deletion. `trials` reads and ends trials, with the statements of `trial_queries`; `history` reads a study whole, and
`batch_writer` stores what the optimizer has decided. `initial_trials` is what a study begins with, `printed_output`
what was read from logs. `locks` are the locks by which replicas serve studies, `listen` waits for notifications.
`logins` are those of trials' pods, `roles` says how PostgreSQL keeps them, `reporter` is the guard over them, and
`public_rights` what no login may do. `pooler` runs PgBouncer in the embedded database's pod. `refused_calls` counts
what pods were refused, `usage` how much of the server is in use, `study_sizes` what each study takes, and
`predecessors` waits for operators of version 0.1.

`reading.sql` is what people may read, and the log of what changes. `reader_login` is the login that reads it, with the
connections of `reader_pool`; `readable_trials` are its questions, and `readable_rows` makes records of the answers.
`wishes.sql` is what people may ask for, and `wishes` notes it.

Rows come out as plain values of `model`, and batches of changes go in. This package may not decide anything about a
trial, and knows neither Kubernetes nor samplers.
"""
