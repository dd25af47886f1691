"""`study-operator validate FILE`: what can be said of a Study without a cluster.

`command` is the command line. `documents` reads YAML as kubectl does, with the line of each field. `schema` checks a
Study against crds/study.yaml and fills in its defaults, in sentences where the API server has words of its programming
language; `cel` evaluates the rules that are written there. `checks` is what the operator itself would say.

This package imports the optimizer into its own process, which the operator's main process never does.
"""
