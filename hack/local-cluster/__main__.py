"""A real Kubernetes on this machine, from Go modules and Debian packages. See docs/local-cluster.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import Problem


def main() -> int:
    """Runs one command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="local-cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    services = commands.add_parser(
        "test-services",
        help="an API server, its etcd and a PostgreSQL on loopback, for component tests",
        description="`up` starts what is not running and prints {kubeconfig, database_url} as its last line;"
        " `down` stops them and removes their data.",
    )
    services.add_argument("action", choices=["up", "down"])
    services.add_argument(
        "--dir", type=Path, help="where they live (default: test-services in the cache directory)"
    )
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "test-services":
        import testservices

        directory = (arguments.dir or testservices.default_dir()).absolute()
        if arguments.action == "up":
            print(json.dumps(testservices.up(directory)))
        else:
            testservices.down(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
