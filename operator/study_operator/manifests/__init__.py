"""The objects that are sent to Kubernetes: a trial's Job, the study's Secret, claims and the Service beside them.

A Study goes in, a manifest comes out. `job` builds the whole Job; the other modules each add one thing to its pod. This
package does no I/O, and may not know whether an object exists.
"""
