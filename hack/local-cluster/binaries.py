"""Kubernetes' own programs, built from their published Go modules."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common import HERE, Problem, cache_dir, locked, run, say, tail

_TOOLS = HERE / "tools"
_PLAIN = "-s -w"
_GO = (1, 21)  # the first that fetches the version that tools/go.mod asks for by itself
_KUBERNETES = re.search(r"k8s\.io/kubernetes (v[\d.]+)", (_TOOLS / "go.mod").read_text())[1]


def _kubernetes_flags() -> str:
    """Without its version a server calls itself v0.0.0, and clients refuse features."""
    major, minor, _ = _KUBERNETES.removeprefix("v").split(".")
    base = "k8s.io/component-base/version"
    return (
        f"{_PLAIN} -X {base}.gitVersion={_KUBERNETES} -X {base}.gitMajor={major} -X {base}.gitMinor={minor}"
        f" -X {base}.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion={_KUBERNETES}"
    )


@dataclass(frozen=True)
class _Source:
    package: str
    version: str | None
    """None: as required by tools/go.mod; else built apart, since it needs other versions of libraries."""
    minutes: float
    """How long the first build takes on two cores, for the progress line."""


_SOURCES = {
    "etcd": _Source("go.etcd.io/etcd/server/v3", None, 1),
    "kube-apiserver": _Source("k8s.io/kubernetes/cmd/kube-apiserver", None, 5),
    "kubectl": _Source("k8s.io/kubernetes/cmd/kubectl", None, 1),
    "kube-controller-manager": _Source("k8s.io/kubernetes/cmd/kube-controller-manager", None, 1.5),
    "kube-scheduler": _Source("k8s.io/kubernetes/cmd/kube-scheduler", None, 0.5),
    "kubelet": _Source("k8s.io/kubernetes/cmd/kubelet", None, 1),
    "kube-proxy": _Source("k8s.io/kubernetes/cmd/kube-proxy", None, 0.5),
    "coredns": _Source("github.com/coredns/coredns", "v1.14.5", 3),
    "local-path-provisioner": _Source("github.com/rancher/local-path-provisioner", "v0.0.30", 2),
    "helm": _Source("helm.sh/helm/v3/cmd/helm", "v3.19.5", 2),
    "kubeconform": _Source("github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0", 0.5),
    "kwok": _Source("sigs.k8s.io/kwok/cmd/kwok", "v0.7.0", 3),
}
CLUSTER = tuple(name for name in _SOURCES if name != "kwok")  # a cluster with a real node needs no imitation of one
TEST_SERVICES = ("etcd", "kube-apiserver", "kubectl")
LOAD_SERVICES = (*TEST_SERVICES, "kube-controller-manager", "kube-scheduler", "kwok")


def path_dir() -> Path:
    """A directory for PATH with all programs under their own names, wherever they come from."""
    return cache_dir() / "cluster" / "bin"


def paths(names: Iterable[str] = CLUSTER) -> dict[str, Path]:
    """Where each of these programs is, or will be once it is built.

    A program in the directory `KUBE_BIN_DIR` is used as it is. All others are built once into the cache, each under
    a name that tells all that decides what it is. Raises Problem when that directory does not exist.
    """
    given = os.environ.get("KUBE_BIN_DIR")
    if not given:
        return {name: _built(name) for name in names}
    directory = Path(given).absolute()
    if not directory.is_dir():
        raise Problem(f"KUBE_BIN_DIR={given} is not a directory; correct it, or unset it to build from source")
    return {name: directory / name if os.access(directory / name, os.X_OK) else _built(name) for name in names}


def ensure(names: Iterable[str] = CLUSTER) -> dict[str, Path]:
    """Builds those of these programs that are missing, and returns where each is.

    Raises Problem when a build fails or Go is missing.
    """
    found = paths(names)
    if not all(path.exists() for path in found.values()):
        with locked(cache_dir() / "bin" / ".lock"):
            # Once more: another command may have built some of them while this one waited.
            _build([name for name, path in found.items() if not path.exists()])
    for name, path in found.items():
        _link(path, path_dir() / name)
    return found


def _flags(name: str) -> str:
    return _kubernetes_flags() if _SOURCES[name].package.startswith("k8s.io/") else _PLAIN


def _built(name: str) -> Path:
    """Where the cache has a program: the name contains a hash of what decides its content."""
    source = _SOURCES[name]
    digest = hashlib.sha256(f"{source.package} {source.version} {_flags(name)}".encode())
    if source.version is None:
        for file in ("go.mod", "go.sum"):
            digest.update((_TOOLS / file).read_bytes())
    return cache_dir() / "bin" / f"{name}-{digest.hexdigest()[:12]}"


def _link(target: Path, link: Path) -> None:
    if link.is_symlink() and Path(os.readlink(link)) == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(link)


def _build(names: list[str]) -> None:
    if not names:
        return
    version = run(["go", "env", "GOVERSION"]).stdout.strip() if shutil.which("go") else "none"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _GO:
        raise Problem(
            f"building {', '.join(names)} needs Go {'.'.join(map(str, _GO))} or newer; on PATH is: {version}."
            " Install it (https://go.dev/dl), or put these programs into a directory and name it in KUBE_BIN_DIR."
        )
    minutes = sum(_SOURCES[name].minutes for name in names)
    say(f"building {', '.join(names)} from source: about {minutes:.0f} minutes on two cores")
    say("(once; Go's build cache shortens it, KUBE_BIN_DIR=<directory with released binaries> avoids it)")
    for number, name in enumerate(names, 1):
        source = _SOURCES[name]
        with tempfile.TemporaryDirectory(dir=cache_dir() / "bin") as scratch:
            argv = ["go", "build" if source.version is None else "install", "-v", "-trimpath", "-ldflags", _flags(name)]
            if source.version is None:
                argv += ["-o", f"{scratch}/{name}", source.package]
            else:
                argv += [f"{source.package}@{source.version}"]
            _go(argv, {"CGO_ENABLED": "0", "GOBIN": scratch, "GOWORK": "off"}, f"{name} ({number}/{len(names)})")
            Path(scratch, name).replace(_built(name))


def _go(argv: list[str], environment: dict[str, str], what: str) -> None:
    """Runs Go and says every few seconds how far it is; `go -v` names each package as it compiles it."""
    process = subprocess.Popen(
        argv,
        cwd=_TOOLS,
        env={**os.environ, **environment},
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout
    began = mentioned = time.monotonic()
    packages, lines = 0, []
    try:
        for line in process.stdout:
            lines.append(line)
            packages += not line.startswith("go: ")
            if time.monotonic() - mentioned > 15:
                mentioned = time.monotonic()
                doing = "downloading modules" if line.startswith("go: ") else f"{packages} packages compiled"
                say(f"  {what}: {doing}, {mentioned - began:.0f} s so far")
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status != 0:
        raise Problem(f"building {what} failed: {' '.join(argv)}\n{tail(''.join(lines))}")
    say(f"  {what}: done in {time.monotonic() - began:.0f} s")
