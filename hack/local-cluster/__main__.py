"""A real Kubernetes on this machine, from Go modules and Debian packages. See docs/local-cluster.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

import binaries
import cluster
import images
import loadservices
import network
import testservices
from common import Problem
from recipes import ON_DEMAND, PROJECT


def main() -> int:
    """Runs one command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="local-cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start the cluster, or what of it is not running")
    down = commands.add_parser("down", help="end the cluster; its objects come back with the next `up`")
    down.add_argument("--purge", action="store_true", help="forget its objects, volumes and certificates as well")
    commands.add_parser("status", help="each component's process id and health; exit status 1 when not all is well")
    commands.add_parser("env", help='shell lines that point kubectl and helm at it: eval "$(... env)"')
    build = commands.add_parser(
        "images",
        help="build the project's images and bring them to the cluster",
        description="Builds and imports what has changed; prints {name: image} as its last line.",
    )
    build.add_argument("name", nargs="*", help=f"one of {', '.join(PROJECT)} (default: all but {', '.join(ON_DEMAND)})")
    build.add_argument(
        "--push",
        metavar="REGISTRY",
        help="instead, build on published base images with docker, podman or buildah, and push to REGISTRY",
    )
    services = commands.add_parser(
        "test-services",
        help="an API server, its etcd and a PostgreSQL on loopback, for component tests",
        description="`up` starts what is not running and prints {kubeconfig, database_url} as its last line;"
        " `down` stops them and removes their data.",
    )
    services.add_argument("action", choices=["up", "down"])
    services.add_argument("--dir", type=Path, help="where they live (default: test-services in the cache directory)")
    load = commands.add_parser(
        "load-services",
        help="a control plane with imitated nodes and a PostgreSQL on loopback, for load tests",
        description="`up` starts what is not running and prints as its last line {kubeconfig, clients, database_url,"
        " audit_log, processes}; `env` prints shell lines that point kubectl at it; `down` removes its data, too.",
    )
    load.add_argument("action", choices=["up", "down", "env"])
    load.add_argument("--dir", type=Path, help="where they live (default: load-services in the cache directory)")
    load.add_argument(
        "--default-limits",
        action="store_true",
        help="leave controller manager and scheduler their own limits, 20 and 50 requests a second, instead of 1000",
    )
    arguments = parser.parse_args()
    # Debian keeps daemons in sbin, which is not on every root shell's PATH.
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    network.keep_from_proxies()
    try:
        return _run(arguments)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "up":
        cluster.up()
        print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig()))}")
    elif arguments.command == "down":
        cluster.down(arguments.purge)
    elif arguments.command == "status":
        return _status()
    elif arguments.command == "env":
        binaries.ensure(("kubectl", "helm", "kubeconform"))
        print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig()))}")
        print(f"export PATH={shlex.quote(str(binaries.path_dir()))}:$PATH")
        if network.proxies_in_use():
            print(f"export NO_PROXY={shlex.quote(os.environ['NO_PROXY'])}")
    elif arguments.command == "images":
        print(
            json.dumps(_images(arguments.name or [name for name in PROJECT if name not in ON_DEMAND], arguments.push))
        )
    elif arguments.command == "test-services":
        directory = (arguments.dir or testservices.default_dir()).absolute()
        if arguments.action == "up":
            print(json.dumps(testservices.up(directory)))
        else:
            testservices.down(directory)
    elif arguments.command == "load-services":
        directory = (arguments.dir or loadservices.default_dir()).absolute()
        if arguments.action == "down":
            loadservices.down(directory)
        elif arguments.action == "up":
            print(json.dumps(loadservices.up(directory, arguments.default_limits)))
        else:
            print(f"export KUBECONFIG={shlex.quote(str(directory / 'kubeconfig'))}")
            print(f"export PATH={shlex.quote(str(binaries.path_dir()))}:$PATH")
    return 0


def _status() -> int:
    rows, well = cluster.status()
    for name, pid, state in rows:
        print(f"{name:<26}{pid:>9}  {state}")
    print(f"kubeconfig: {cluster.kubeconfig()}" if well else "not up: `up` starts what is missing")
    return 0 if well else 1


def _images(names: list[str], registry: str | None) -> dict[str, str]:
    unknown = sorted(set(names) - set(PROJECT))
    if unknown:
        raise Problem(f"no such image: {', '.join(unknown)}. There are: {', '.join(PROJECT)}")
    if registry:
        return images.push(names, registry)
    return images.ensure(names, cluster.containerd())


if __name__ == "__main__":
    sys.exit(main())
