"""An installation of the chart that one test module may break: beside the usual one, for namespaces of its own."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from e2e import Cluster, kubectl

CHART = Path(__file__).resolve().parents[3] / "helm/study-operator"
_VALUES = {
    "operator.image": "study-operator",
    "trialImage": "study-trial",
    "database.embedded.image": "study-postgres",
}


@contextmanager
def own_release(
    images: dict[str, str], namespaces: int, *values: str, before: Callable[[Cluster], None] | None = None
) -> Iterator[list[Cluster]]:
    """Install the chart for namespaces that it makes, and remove both in the end.

    The operator of the usual installation, which serves every namespace, has to be away meanwhile.

    Args:
        images: the images that the cluster has, by name.
        namespaces: how many of them the operator serves.
        values: further values of the chart; NAME in them stands for the name of the release and its namespace.
        before: called before the installation, with the release's namespace.
    """
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    clusters = [Cluster(f"{name}-{number}", images, name) for number in range(namespaces)]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Cluster.create, clusters))
        if before is not None:
            own = Cluster(name, images, name)
            own.create("privileged")
            before(own)
        served = ",".join(cluster.namespace for cluster in clusters)
        settings = ["--set", f"fullnameOverride={name},crds.install=false,watchNamespaces={{{served}}}"]
        for key, image in _VALUES.items():
            repository, _, tag = images[image].rpartition(":")
            settings += ["--set-string", f"{key}.repository={repository},{key}.tag={tag}"]
        settings += [word for value in values for word in ("--set", value.replace("NAME", name))]
        helm("install", name, str(CHART), "-n", name, "--create-namespace", "--wait", "--timeout", "5m", *settings)
        yield list(clusters)
    finally:
        spaces = [name, *(cluster.namespace for cluster in clusters)]
        helm("uninstall", name, "-n", name, "--ignore-not-found")
        kubectl("delete", "namespace", *spaces, "--ignore-not-found", "--wait=false")


def upgrade(release: str, *values: str) -> None:
    """Give a release other values; return when every pod is ready."""
    settings = [word for value in values for word in ("--set", value)]
    helm("upgrade", release, str(CHART), "-n", release, "--reuse-values", "--wait", "--timeout", "5m", *settings)


def helm(*arguments: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
