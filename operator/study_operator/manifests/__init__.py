"""The objects that the operator sends to Kubernetes.

A Study goes in, a manifest comes out. `job` builds the whole Job, with its environment, and the study's Secret. The
other modules each add one thing to the pod, or build one object beside it: `gpus`, `volumes`, `checkpoints` (claims),
`sidecar` (reads metrics from files), `subdomain` (the Service that names pods). `template` refuses what a user's
template must not say, `contradictions` fields that exclude each other, `quotes` what is no text where text belongs,
`quantities` what is no amount, `references` what refers to a variable that no trial has, `metrics_directory` what would
hide the program, and `start_size` what is more than Linux starts a program with. `variables` are those in which a trial
has its parameters. `limit_ranges` makes a container fit a namespace.

This package does no I/O, and may not know whether an object exists.
"""
