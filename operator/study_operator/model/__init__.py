"""What is known of a study, and what is decided from it, as plain values and pure functions.

`study` is the Study, `trial` a row, `job_state` a Job, `observed` all of them at one moment. `plan` decides what to do
next (`rules` about each trial, `outcome` about the study), and `status` what users read. The time is an argument.

This package does no I/O, and imports no other package of the operator.
"""
