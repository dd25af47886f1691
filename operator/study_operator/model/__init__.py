"""What is known of a study, and what is decided from it, as plain values and pure functions.

`study` is the Study, `trial` a row, `job_state` a Job. `plan` decides what to do next, and `status` what users are told.
The time is an argument. This package does no I/O, and imports no other package of the operator.
"""
