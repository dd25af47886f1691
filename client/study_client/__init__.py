"""`kubectl study`: studies and their trials from the command line, with kubectl as transport.

`arguments` is the command line, `commands` calls what a command does, and `__main__` begins. `kubectl` runs kubectl,
and `errors` are what it may say. `studies` reads a Study, `trials` the trials API; `times` reads times.

`showing` has `list` and `best`, `status` the live view, `acting` what changes a Study, `waiting` has `wait`, `logs`
finds pods, `doctor` looks for what is missing, `completion` completes names. `trial_tables` has tables and files of
trials, `curves` draws reports, `importance` ranks parameters. `begin` writes a Study for a script, and `local` runs one
on this machine; `operators_rooms` finds the operator's code for that. `output` prints tables, `texts` makes text of
tenants safe, and `yaml_text` writes YAML.

But for `operators_rooms` and `local`, which need the extra `local`, everything here uses the standard library alone.
"""

VERSION = "0.3.0"
