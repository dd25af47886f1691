"""Optimizer processes: samplers, pruners and their histories compute in processes of their own.

`study-operator optimize` is one process that has imported Optuna, listens on a Unix socket, and forks an optimizer
process for each connection. It runs in a container of its own, without token, passwords or database. The manager
connects, and decides which study lives in which process.

`client` is what the rest of the operator uses: it loads a study into a process. `remote_optimizer` is that study's
optimizer for its owner, and `errors` says why it cannot be asked. `lanes` decides which study may compute where and
when, without any I/O. `connection` is one connection, `wire` the frames on it, `records` the plain values in them, and
`checks` looks at answers before they are used. `launch` starts `optimize` beside a
manager that has no container for it. On the other side, `serving` listens and forks, and `answering` is the forked
process: it alone imports the optimizer.

The package may not know the database or Kubernetes.
"""
