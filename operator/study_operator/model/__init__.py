"""What is known of a study, and what is decided from it, as plain values and pure functions.

Known: `study` is the Study, parsed, `search_space` its parameters, `distributions` the values of each, `samplers` and
`pruners` what their names tell; `trial` is a row, `job_state` a Job, `pod_status` why a Job's pod failed or waits, and
whose fault it is, `cluster_events` what Events say of it, `reach` what its log says of the database; `gpus` counts what
a Job asks for; `observed` is all of it at one moment. `history` and `batch` are what crosses the optimizer's door: a
study's trials, and what is to be written to them.

Decided: `plan` is what to do next: Jobs to stop, also of pruned trials after their grace, slots to fill, finished Jobs
to remove. `trial_rules` decides about each running trial, `study_outcome` about the study's end, `pending_pods` about
pods that do not start, and `ended_programs` about pods that go on without their program; `actions` are the answers.
`pareto` finds the best trials of several objectives. `status` is what users read, `summary` its figures. `placement`
says which replica is to serve which study, `mark` which installation may, and in which database, and `namespaces` where
Studies are refused. `intake` has bounds on the size of a Study, `option_bounds` on the options of samplers and pruners,
and `grid` counts the cells of a finite space. `mistakes` looks for what is most likely one. `initial_trials` and
`warm_start` are what a study may begin with. `printed_lines` reads a printed line, and `log_lines` makes its reader
from the Study: `terminal` takes away what no terminal shows, `pairs` finds `name=value`, `unmarked` names beside
numbers, and `numerals` reads numbers and steps; the trials' library has the same files. `log_position` is how far a log
has been read. `final_values` chooses which value counts, and `missing_value` says what there is instead of one, with
`seen_names`. `thinning` chooses the reports that a pruner is shown. `readable` is what people read of trials, and
`wish` what they wish.

The time is an argument. This package does no I/O, and imports no other package of the operator, nor Optuna or NumPy: a
process that serves Studies runs without them.
"""
