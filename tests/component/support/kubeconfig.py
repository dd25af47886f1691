"""Kubeconfigs that lead somewhere else than the API server's own: to a proxy, or nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes.aio.config import kube_config


def write_kubeconfig(path: Path, server: str, token: str = "none") -> None:
    """A kubeconfig with one context, for a server without TLS."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": server}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    path.write_text(yaml.safe_dump(config))


def use_kubeconfig(monkeypatch: pytest.MonkeyPatch, path: Path | str) -> None:
    """KUBECONFIG, for a whole operator in this process; the client has read the variable when it was imported."""
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
