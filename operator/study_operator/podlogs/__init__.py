"""The logs of trials that report by what they print.

`follower` reads for all studies, `job_log` for the pods of one Job, `tail` for one pod; `stream` opens a log, and
`flow` bounds how fast logs are read. What a
line means is in `model.log_lines`. How far a log has been read is in the database, and `model.log_position` computes
with it.

This package may not decide what becomes of a trial.
"""
