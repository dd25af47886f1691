"""Debian packages that the tool needs, installed when missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from common import Problem, cache_dir, locked, run, say

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")

# What has to exist -> the Debian package that brings it. A machine that has it from elsewhere keeps that.
_PACKAGE_OF = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "faketime": "faketime",
    "ip": "iproute2",
    "mount": "mount",
    "openssl": "openssl",
    "setpriv": "util-linux",
    str(POSTGRES_BIN / "postgres"): "postgresql-15",
    "pgbouncer": "pgbouncer",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}

TEST_SERVICES = ("openssl", "setpriv", str(POSTGRES_BIN / "postgres"), "pgbouncer")
CLUSTER = (
    "containerd",
    "ctr",
    "runc",
    "/usr/lib/cni/bridge",
    "iptables",
    "conntrack",
    "faketime",  # end-to-end tests set clocks wrong
    "ip",
    "mount",
    "openssl",
)
IMAGES = ("buildah", "debootstrap")


def ensure(needed: Iterable[str]) -> None:
    """Installs the Debian packages of those commands and files that are missing.

    Raises Problem when a package is missing and this is not root on a machine with apt-get.
    """
    needed = tuple(needed)
    if _missing(needed):
        # apt-get fails while another one runs, and test processes come here side by side.
        with locked(cache_dir() / ".packages.lock"):
            _install(_missing(needed))


def _missing(needed: Iterable[str]) -> list[str]:
    return sorted({_PACKAGE_OF[name] for name in needed if not shutil.which(name)})


def _install(missing: list[str]) -> None:
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Problem(f"missing Debian packages: {names}. Run this as root on Debian 12, or install them.")
    say(f"installing Debian packages: {names} (a minute or two)")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=environment)
    run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], env=environment)


def mirror() -> list[str]:
    """Where this machine gets Debian's packages from, whatever the release; empty where its own sources do not say."""
    wanted = ["Codename: bookworm", "Created-By: Packages", "Component: main"]
    return run(["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted], check=False).stdout.split()[:1]
