"""The operator: it watches Studies, asks Optuna for trials, runs each as a Job, and writes down what came of them.

Read from the top: `manager` is the process, and `validate` a command that needs no cluster. `controller` decides which
study is reconciled, and when. `reconcile` does one pass over one study. `podlogs` reads what trials print. `kube` and
`storage` are the API server and PostgreSQL. `optimizer` is Optuna, `manifests` is what is sent to Kubernetes, and
`model` is what is known and decided. An import goes down this list, never up: `make lint` checks it.

The modules beside the packages are the ground floor, which any package may use: `settings` (the environment), `logs`
(lines as text or JSON), `texts` (what tenants say, on one line), `metrics`, `probes` (/healthz, /readyz, /metrics),
`httpd` (the server that they answer from), `clocks` (other machines' time), `fence`
(what keeps a replica from writing about a study that it has lost; lease and heartbeat), `pool` (the threads that may
block), `shares` (what no namespace gets all of), `looks` (a look at a study that is going on) and `backoff` (delays
between attempts).
"""
