"""Which study is reconciled, when, and by which replica.

Events of Studies and Jobs come in, as do notifications of reports; keys of studies come out, through one work queue.
The replicas share the studies out among themselves here. This package knows nothing of trials: what has to be done for
a study is decided and done in `reconcile`.
"""
