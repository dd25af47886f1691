"""The logs of trials that report by what they print.

`follower` reads for all studies, `job_log` for one Job, `tail` for one pod. What lines mean is in `model.log_lines`,
and how far a log has been read is in the database. This package may not decide what becomes of a trial.
"""
