"""kubectl, run as a user would, for tests about what a user sees, and what kubectl sends, for very many of them."""

import http.client
import json
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chart import program
from kubernetes import client, config


class Kubectl:
    """kubectl against one API server, in one namespace."""

    def __init__(self, kubeconfig: str, cache: Path, namespace: str = "default") -> None:
        self.kubeconfig, self.cache, self.namespace = kubeconfig, cache, namespace
        self.binary = program("kubectl")

    def run(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs `kubectl ARGS`; the caller judges its exit status."""
        options = ["--kubeconfig", self.kubeconfig, "--cache-dir", str(self.cache), "-n", self.namespace]
        return subprocess.run([self.binary, *options, *args], input=stdin, capture_output=True, text=True, timeout=60)

    def ok(self, *args: str, stdin: str | None = None) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *args: str, stdin: str | None = None) -> str:
        """Standard error of a command that must fail."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def in_new_namespace(self) -> Iterator["Kubectl"]:
        """kubectl in a namespace of its own, which is given up afterwards, with its Studies."""
        namespace = f"test-{uuid.uuid4().hex[:8]}"
        self.ok("create", "namespace", namespace)
        own = Kubectl(self.kubeconfig, self.cache, namespace)
        yield own
        own.ok("delete", "studies", "--all")
        self.ok("delete", "namespace", namespace, "--wait=false")


class DryRuns:
    """What `kubectl create` and `kubectl replace` send with --dry-run=server, without a process for each.

    Args:
        kubeconfig: path of a kubeconfig with a client certificate.
        namespace: where Studies would be.
    """

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        found = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=found)
        tls = ssl.create_default_context(cafile=found.ssl_ca_cert)
        tls.load_cert_chain(found.cert_file, found.key_file)
        self._connection = http.client.HTTPSConnection(urlsplit(found.host).netloc, context=tls, timeout=60)
        self._path = f"/apis/study-operator.io/v1alpha1/namespaces/{namespace}/studies"

    def create(self, study: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Whether the API server would create a Study, and its answer: the Study, or a Status with a message."""
        return self._send("POST", self._path, study)

    def replace(self, study: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """The same for a Study that exists."""
        return self._send("PUT", f"{self._path}/{study['metadata']['name']}", study)

    def _send(self, method: str, path: str, study: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        query = "?dryRun=All&fieldValidation=Strict"
        self._connection.request(method, path + query, json.dumps(study), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status < 300, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()
