"""study-operator run | migrate | optimize | serve-api | validate"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys

from study_operator.logs import configure
from study_operator.settings import ApiSettings, OptimizeSettings, Settings, SettingsError

_SETTINGS = """\
settings, read from the environment:
  DATABASE_URL        postgresql://user@host:5432/database?sslmode=verify-full (required)
  DATABASE_PASSWORD   password of that user
  DATABASE_CA_FILE    CA of the database's certificate
  REPORTER_PASSWORD   password of the role that trials report as (required)
  REPORTER_USER       that role [study_reporter]
  MANAGE_REPORTER     whether `migrate` creates that role [true]
  REPORTER_LOGINS     a login for each namespace, or one that all share: namespace, shared or auto [auto]
  REPORTER_HOST, REPORTER_PORT, REPORTER_SSLMODE
                      the database as pods reach it [as in DATABASE_URL]
  POOLER_USER         login by which the embedded database's PgBouncer learns of logins [none]
  REPORTER_CA_FILE    CA handed to trials
  STUDY_KEY_SEED      secret that the studies' keys are derived from, at least 32 characters (required)
  WATCH_NAMESPACES    comma-separated [all]
  WATCH_NAMESPACE_SELECTOR
                      labels of the namespaces to watch, such as studies=yes,team in (a,b) [all]
  ALLOWED_NAMESPACES  comma-separated: those of kube-* and the operator's own in which Studies are wanted [none]
  SAMPLER_CLASSES     comma-separated package.module:Class that Studies may name [none]
  OPTIMIZER_SOCKET    where `optimize` listens [run starts it itself]
  OPTIMIZER_PROCESSES, OPTIMIZER_SECONDS, OPTIMIZER_MEMORY_MIB
                      how many studies compute at once, for how long, with how much memory each [4, 60, 256]
  GPU_NAMES           comma-separated: what resources that count as GPUs have in their names [gpu,mig,tpu,...]
  TRIAL_IMAGE         image of the sidecar that reads metrics from files [none]
  OPERATOR_SERVICE    namespace/name of the Service of these replicas; for more than one [none]
  OPERATOR_POD        namespace/name/uid of this process' pod, for Events about its database [none]
  WORKERS             studies looked at at once [8]
  STORAGE_THREADS     connections to the database [8]
  RESYNC_SECONDS      how often all studies are looked at although nothing happened [300]
  HTTP_PORT           /metrics, /healthz and /readyz [8080]
  LOG_FORMAT          text or json [text]
  LOG_LEVEL           debug, info, warning or error [info]

`optimize` reads OPTIMIZER_SOCKET (required), OPTIMIZER_MEMORY_MIB, SAMPLER_CLASSES, LOG_FORMAT and LOG_LEVEL, and
HTTP_PORT if it is to serve /healthz. Give it no secret: it runs samplers.

`serve-api` reads DATABASE_URL, DATABASE_CA_FILE, LOG_FORMAT, LOG_LEVEL, HTTP_PORT, and
  READER_USER, READER_PASSWORD
                      the login that may read trials, and nothing else [study_reader] (password required)
  API_SERVICE         namespace/name of the Service by which the API server reaches it (required)
  API_PORT            where it serves the API server [10250]
  API_CERTIFICATE_DIRECTORY
                      tls.crt and tls.key to serve with [each replica makes its own]
  READER_CONNECTIONS  connections to the database [4]
Give it no other secret: everybody in the cluster may ask it something.
"""

# How long a thread that computes keeps the event loop waiting, each time the loop comes back from a read or a write.
# Python's own 5 ms are longer than most of what the loop does.
SWITCH_INTERVAL_SECONDS = 0.0005


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those of the process by default.

    Returns:
        The exit code: 0; 1 if the database is at fault; 2 if the settings are; 130 after an interrupt.

    Raises:
        SystemExit: SIGTERM has come before `run` serves. From then on, `run` ends in its own way.
    """
    # Without a handler the kernel keeps the signal from a container's first process, and Kubernetes would wait for its
    # grace period to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(
        prog="study-operator",
        description="Hyperparameter optimisation on Kubernetes: serves Study resources.",
        epilog=_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="serve the Studies of this cluster")
    migration = commands.add_parser("migrate", help="create or migrate what the database must hold, then exit")
    migration.add_argument(
        "--patience",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long to wait for a database that does not answer [600]",
    )
    computing = commands.add_parser("optimize", help="fork processes in which samplers and pruners compute")
    computing.add_argument("--until-eof", action="store_true", help="end when standard input does")
    commands.add_parser("serve-api", help="serve trials to people, behind the API server's aggregation layer")
    validation = commands.add_parser("validate", help="check Studies in files, without a cluster; needs no settings")
    validation.add_argument("files", nargs="+", metavar="FILE", help='YAML or JSON; "-" is standard input')
    given = parser.parse_args(arguments)
    if given.command == "validate":
        from study_operator.validate.command import validate

        return validate(given.files)
    if given.command == "optimize":
        return _optimize(given.until_eof)
    if given.command == "serve-api":
        return _serve_api()
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(f"study-operator: {error}", file=sys.stderr)
        return 2
    configure(settings.log_format, settings.log_level)
    # Each command imports what it needs alone: `optimize` shares its memory, and knows neither database nor Kubernetes.
    from study_operator.manager import run
    from study_operator.storage.database import StorageError, StorageUnavailable
    from study_operator.storage.migrate import migrate

    try:
        if given.command == "migrate":
            migrate(settings, given.patience)
        else:
            sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
            if asyncio.run(run(settings)):
                # Python would wait for the threads that still block, and Kubernetes would kill the process.
                logging.getLogger("study_operator").warning("ending while a call is still running")
                logging.shutdown()
                os._exit(0)
    except SettingsError as error:
        print(f"study-operator: {error}", file=sys.stderr)
        return 2
    except (StorageError, StorageUnavailable) as error:
        logging.getLogger("study_operator").error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _optimize(until_eof: bool) -> int:
    try:
        settings = OptimizeSettings.from_environment()
    except SettingsError as error:
        print(f"study-operator: {error}", file=sys.stderr)
        return 2
    configure(settings.log_format, settings.log_level)
    from study_operator.processes.serving import optimize

    optimize(settings, until_eof)
    return 0


def _serve_api() -> int:
    try:
        settings = ApiSettings.from_environment()
        configure(settings.log_format, settings.log_level)
        from study_operator.api.service import serve

        asyncio.run(serve(settings))
    except SettingsError as error:
        print(f"study-operator: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    # As `run`: Python would wait for threads that still ask the database.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
