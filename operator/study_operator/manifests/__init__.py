"""Build the objects that the operator sends to Kubernetes.

These are a trial's Job, the study's Secret, the claims for checkpoints and the Service that names pods. A Study goes
in, a manifest comes out. `job` builds the whole Job; the other modules each add one thing to its pod.

This package does no I/O, and may not know whether an object exists.
"""
