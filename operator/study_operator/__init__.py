"""The operator: it watches Studies, asks Optuna for trials, runs each as a Job, and writes down what came of them.

Read from the top: `manager` is the process. `controller` decides which study is worked on, and when. `reconcile` does
one pass over one study. `podlogs` reads what trials print. `kube` and `storage` are the API server and PostgreSQL.
`optimizer` is Optuna, `manifests` is what is sent to Kubernetes, and `model` is what is known and decided. The modules
beside the packages (`settings`, `logs`, `metrics`, `probes`, `clocks`, `fence`, `pool`, `backoff`) are the ground
floor: any package may use them. An import goes down this list, never up: `make lint` checks it.
"""
