"""Reads of the cluster's API server, for tests that ask again and again: kubectl takes a tenth of a second of CPU."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

_STUDIES = "apis/study-operator.io/v1alpha1/namespaces/{}/studies"
_PATHS = {
    "studies": _STUDIES,
    "study": _STUDIES,
    "jobs": "apis/batch/v1/namespaces/{}/jobs",
    "job": "apis/batch/v1/namespaces/{}/jobs",
    "pods": "api/v1/namespaces/{}/pods",
    "pod": "api/v1/namespaces/{}/pods",
    "events": "api/v1/namespaces/{}/events",
    "pvc": "api/v1/namespaces/{}/persistentvolumeclaims",
    "secrets": "api/v1/namespaces/{}/secrets",
    "service": "api/v1/namespaces/{}/services",
    "pdb": "apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}


def get(namespace: str, kind: str, name: str = "", labels: str = "", fields: str = "") -> dict[str, Any]:
    """Return an object, or the list of those that match.

    Args:
        kind: as kubectl has it; one of those in this module.
        name: the object's; without it a list is returned.
        labels: a selector.
        fields: a selector.

    Raises:
        AssertionError: with the API server's words when it refuses, and the system's when it cannot be reached.
    """
    path = _PATHS[kind].format(namespace) + (f"/{name}" if name else "")
    query = {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
    server, context = _server()
    try:
        with urllib.request.urlopen(f"{server}/{path}?{urlencode(query)}", timeout=60, context=context) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"GET {path}: {error.code} {error.read().decode(errors='replace')}") from None
    except OSError as error:
        raise AssertionError(f"GET {path}: {error}") from None


@cache
def _server() -> tuple[str, ssl.SSLContext]:
    """URL and TLS of the API server, as the kubeconfig has them."""
    command = ["kubectl", "config", "view", "--raw", "--minify", "--flatten", "-o", "json"]
    config = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=_decoded(server["certificate-authority-data"]))
    with tempfile.TemporaryDirectory() as directory:
        both = Path(directory) / "client.pem"
        both.touch(0o600)
        both.write_text(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
        context.load_cert_chain(both)
    return server["server"], context


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
