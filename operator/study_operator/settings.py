"""Everything that can be configured, in one place. It is read once from the environment and then passed on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

# Where a trial's pod finds the files of its study's Secret: address with login, key, and perhaps the database's CA.
TRIAL_STORAGE_DIRECTORY = "/var/run/secrets/study-operator.io"
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """How much this installation takes in. Beyond a limit a Study waits, or a pod's call is refused, in words.

    Attributes:
        studies_per_namespace: how many Studies of a namespace are served, the oldest ones.
        trials_per_study: how many trials a study may have, whatever its maxTrials.
        reports_per_trial: how many intermediate values a trial may report.
        bytes_per_study: what the reports and user attributes of a study's trials may take in the database.
        bytes_per_namespace: the same for all studies of a namespace together.
    """

    studies_per_namespace: int = 1_000
    trials_per_study: int = 200_000
    reports_per_trial: int = 1_000_000
    bytes_per_study: int = 2_000_000_000
    bytes_per_namespace: int = 5_000_000_000


class SettingsError(Exception):
    """A setting is missing or cannot be used. The message names the variable and says what to write."""


@dataclass(frozen=True)
class Settings:
    """The operator's settings. Fields that hold secrets are left out of `repr`.

    Attributes:
        dsn: libpq connection string of the operator's own login.
        reporter_url: libpq connection URI of the reporter, as pods reach the database.
        reporter_user: the reporter's name, a role in PostgreSQL.
        reporter_password: the reporter's.
        manage_reporter: whether the operator creates the reporter, and sets its password and limits.
        reporter_logins: namespace for a login for each namespace, shared for the reporter's alone, or auto: for each
            namespace where the database allows it, and pods reach it at the operator's own address.
        pooler_user: the login by which the embedded database's PgBouncer learns of logins; None if there is none.
        reporter_ca: the database's CA as PEM, for trials; None if they need none.
        reader_user: the login of the trials API, a role in PostgreSQL.
        reader_password: that login's; None if there is no trials API.
        study_key_seed: the secret that the studies' keys are derived from.
        watch_namespaces: empty for all, or those that `namespace_selector` finds.
        namespace_selector: labels of the namespaces to watch, as the API server's `labelSelector`; empty for all.
        allowed_namespaces: namespaces of Kubernetes, or the operator's own, in which Studies are served all the same.
        log_format: text or json.
        log_level: debug, info, warning or error.
        workers: how many studies are reconciled at once.
        storage_threads: how many connections to the database there are, one a thread.
        resync_seconds: how often all studies are reconciled although nothing has happened.
        http_port: of /metrics, /healthz and /readyz; 0 for any free one.
        sampler_classes: package.module:Class that Studies may name.
        optimizer_socket: where `study-operator optimize` listens; None: `run` starts it itself.
        optimizer_processes: how many studies compute at once.
        optimizer_seconds: how long a request may take in the slow lane.
        optimizer_memory: bytes of data memory of each optimizer process.
        trial_image: the image of the sidecar that reads metrics from files; None if there is none.
        gpu_names: what the names of resources that count as GPUs have in them, in lower case; empty for the default.
        service: namespace and name of the Service that selects the replicas of this operator; None if there is none.
            They also name the installation, in the marks of the Studies that it serves.
        pod: namespace, name and UID of the operator's own pod, for Events on it; None if it runs in none.
        limits: how much is taken in.
    """

    dsn: str = field(repr=False)
    reporter_url: str = field(repr=False)
    reporter_user: str
    reporter_password: str = field(repr=False)
    manage_reporter: bool
    reporter_logins: str
    pooler_user: str | None
    reporter_ca: str | None
    study_key_seed: str = field(repr=False)
    watch_namespaces: tuple[str, ...]
    namespace_selector: str
    allowed_namespaces: tuple[str, ...]
    log_format: str
    log_level: str
    workers: int
    storage_threads: int
    resync_seconds: float
    http_port: int
    sampler_classes: tuple[str, ...]
    optimizer_socket: str | None
    optimizer_processes: int
    optimizer_seconds: float
    optimizer_memory: int
    trial_image: str | None
    service: tuple[str, str] | None
    pod: tuple[str, str, str] | None
    limits: Limits = field(default_factory=Limits)
    gpu_names: tuple[str, ...] = ()
    reader_user: str = "study_reader"
    reader_password: str | None = field(default=None, repr=False)

    @property
    def installation(self) -> str:
        """The name by which marks tell this installation from others of the cluster; may be empty."""
        return "/".join(self.service or ())

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        Args:
            env: the variables; those of the process by default.

        Raises:
            SettingsError: a variable is missing or has a value that cannot be used.
        """
        env = os.environ if env is None else env
        database = _database(env)
        reporter_user = env.get("REPORTER_USER") or "study_reporter"
        reporter_password = _required(env, "REPORTER_PASSWORD", "the password of the role that trials report as")
        seed = _required(env, "STUDY_KEY_SEED", "a random text of at least 32 characters")
        if len(seed) < 32:
            raise SettingsError(f"STUDY_KEY_SEED has {len(seed)} characters; write at least 32 random ones")
        ca_file = env.get("REPORTER_CA_FILE")
        logins = _choice(env, "REPORTER_LOGINS", "auto", ("auto", "namespace", "shared"))
        if logins == "auto" and (env.get("REPORTER_HOST") or env.get("REPORTER_PORT")):
            logins = "shared"  # probably a pooler, which has to know each login
        return cls(
            dsn=make_dsn(**database),
            reporter_url=_reporter_url(env, database, reporter_user, reporter_password),
            reporter_user=reporter_user,
            reporter_password=reporter_password,
            manage_reporter=_choice(env, "MANAGE_REPORTER", "true", ("true", "false")) == "true",
            reporter_logins=logins,
            pooler_user=env.get("POOLER_USER") or None,
            reporter_ca=_read_file("REPORTER_CA_FILE", ca_file) if ca_file else None,
            study_key_seed=seed,
            watch_namespaces=_names(env, "WATCH_NAMESPACES"),
            namespace_selector=_namespace_selector(env),
            allowed_namespaces=_names(env, "ALLOWED_NAMESPACES"),
            log_format=_choice(env, "LOG_FORMAT", "text", ("text", "json")),
            log_level=_choice(env, "LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
            workers=_integer(env, "WORKERS", 8),
            storage_threads=_integer(env, "STORAGE_THREADS", 8),
            resync_seconds=float(_integer(env, "RESYNC_SECONDS", 300)),
            http_port=_integer(env, "HTTP_PORT", 8080, lowest=0, highest=65535),
            sampler_classes=_classes(env),
            optimizer_socket=env.get("OPTIMIZER_SOCKET") or None,
            optimizer_processes=_integer(env, "OPTIMIZER_PROCESSES", 4, lowest=2, highest=256),
            optimizer_seconds=float(_integer(env, "OPTIMIZER_SECONDS", 60, highest=3600)),
            optimizer_memory=_memory(env),
            trial_image=env.get("TRIAL_IMAGE") or None,
            service=_service(env),
            pod=_pod(env),
            limits=_limits(env),
            gpu_names=tuple(name.lower() for name in _names(env, "GPU_NAMES")),
            reader_user=_reader_user(env, database, reporter_user),
            reader_password=env.get("READER_PASSWORD") or None,
        )

    def url_of(self, user: str, password: str) -> str:
        """Return the url that pods connect to, with another login than the reporter's."""
        place = self.reporter_url.partition("@")[2]  # an @ of the reporter's login is percent-encoded
        return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{place}"


@dataclass(frozen=True)
class OptimizeSettings:
    """The settings of `study-operator optimize`. It gets no secret.

    Attributes:
        socket: the path of the Unix socket to listen on.
        memory: bytes of data memory of each optimizer process.
        sampler_classes: package.module:Class that is imported at the start, so that no study waits for that.
        http_port: of /healthz; None for none.
        log_format, log_level: as those of `Settings`.
    """

    socket: str
    memory: int
    sampler_classes: tuple[str, ...]
    http_port: int | None
    log_format: str
    log_level: str

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> OptimizeSettings:
        """Read the settings. Args and Raises as `Settings.from_environment`."""
        env = os.environ if env is None else env
        return cls(
            socket=_required(env, "OPTIMIZER_SOCKET", "the path of the socket to listen on"),
            memory=_memory(env),
            sampler_classes=_classes(env),
            http_port=_integer(env, "HTTP_PORT", 8081, highest=65535) if env.get("HTTP_PORT") else None,
            log_format=_choice(env, "LOG_FORMAT", "text", ("text", "json")),
            log_level=_choice(env, "LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        )


@dataclass(frozen=True)
class ApiSettings:
    """The settings of `study-operator serve-api`. It gets none of the operator's secrets.

    Attributes:
        dsn: libpq connection string of the login that may read trials.
        connections: how many connections to the database there are at most.
        service: namespace and name of the Service through which the API server reaches these replicas.
        port: TCP port of the server; 0 for any free one.
        http_port: of /healthz, /readyz and /metrics; 0 for any free one.
        certificate_directory: where tls.crt and tls.key are, if somebody else makes them; None: each replica its own.
        log_format, log_level: as those of `Settings`.
        look_seconds: how often it is looked whether the API server still trusts this replica.
        leaving_seconds: how long requests are answered after SIGTERM.
    """

    dsn: str = field(repr=False)
    connections: int
    service: tuple[str, str]
    port: int
    http_port: int
    certificate_directory: str | None
    log_format: str
    log_level: str
    look_seconds: float = 15.0
    leaving_seconds: float = 5.0

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> ApiSettings:
        """Read the settings. Args and Raises as `Settings.from_environment`."""
        env = os.environ if env is None else env
        service = _service(env, "API_SERVICE")
        if service is None:
            raise SettingsError("API_SERVICE is not set; set it to namespace/name of the Service of these replicas")
        return cls(
            dsn=reader_dsn(env),
            connections=_integer(env, "READER_CONNECTIONS", 4, lowest=2, highest=64),
            service=service,
            port=_integer(env, "API_PORT", 10250, lowest=0, highest=65535),
            http_port=_integer(env, "HTTP_PORT", 8080, lowest=0, highest=65535),
            certificate_directory=env.get("API_CERTIFICATE_DIRECTORY") or None,
            log_format=_choice(env, "LOG_FORMAT", "text", ("text", "json")),
            log_level=_choice(env, "LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        )


def reader_dsn(env: Mapping[str, str] | None = None) -> str:
    """Return the libpq connection string of the reader: the login of the trials API, in the operator's database.

    Args:
        env: the variables; those of the process by default.

    Raises:
        SettingsError: a variable is missing or has a value that cannot be used.
    """
    env = os.environ if env is None else env
    database = _database(env)
    user = _reader_user(env, database, env.get("REPORTER_USER") or "study_reporter")
    password = _required(env, "READER_PASSWORD", "the password of the role that reads trials for people")
    return make_dsn(**{**database, "application_name": "study-reader", "user": user, "password": password})


def _reader_user(env: Mapping[str, str], database: Mapping[str, str], reporter: str) -> str:
    user = env.get("READER_USER") or "study_reader"
    if user in (database.get("user"), reporter):
        raise SettingsError(f"READER_USER is {user!r}, which is another login already; give the reader one of its own")
    return user


def _memory(env: Mapping[str, str]) -> int:
    return _integer(env, "OPTIMIZER_MEMORY_MIB", 256, lowest=64) * 2**20


def _database(env: Mapping[str, str]) -> dict[str, str]:
    """Return DATABASE_URL and the variables that add to it as libpq's connection parameters."""
    url = _required(env, "DATABASE_URL", "for example postgresql://user@host:5432/database?sslmode=verify-full")
    scheme, separator, rest = url.partition("://")
    if separator and scheme.startswith("postgresql+"):  # SQLAlchemy's spelling, which users paste
        url = f"postgresql://{rest}"
    try:
        database = parse_dsn(url)
        if not database.get("port", "0").replace(",", "0").isdecimal():
            raise ValueError("libpq finds out only when it connects")
    except (psycopg2.Error, ValueError):
        raise SettingsError(
            "DATABASE_URL cannot be read; write postgresql://user@host:5432/database (percent-encode special "
            "characters, give the password in DATABASE_PASSWORD)"
        ) from None  # the driver's message can quote the url, and with it a password
    if env.get("DATABASE_PASSWORD"):
        database["password"] = env["DATABASE_PASSWORD"]
    if env.get("DATABASE_CA_FILE"):
        database["sslrootcert"] = env["DATABASE_CA_FILE"]
    if "host" not in database or "dbname" not in database:
        raise SettingsError("DATABASE_URL must name a host and a database: postgresql://user@host:5432/database")
    return {
        "connect_timeout": "5",
        "application_name": "study-operator",
        # A peer that vanished without a word is noticed within half a minute, not after hours.
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",  # milliseconds; keepalives are not sent while an answer is due
        **database,
    }


def _reporter_url(env: Mapping[str, str], database: Mapping[str, str], user: str, password: str) -> str:
    """Return the url that pods connect to, as a libpq connection URI."""
    query = {"connect_timeout": "5", "application_name": "study-trial"}
    if sslmode := _choice(env, "REPORTER_SSLMODE", database.get("sslmode", ""), _SSLMODES):
        query["sslmode"] = sslmode
    if env.get("REPORTER_CA_FILE"):
        query["sslrootcert"] = f"{TRIAL_STORAGE_DIRECTORY}/ca.crt"
    if "target_session_attrs" in database:  # if there are several hosts, the host that can be written to
        query["target_session_attrs"] = database["target_session_attrs"]
    return (
        f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{_reporter_address(env, database)}"
        f"/{quote(database['dbname'], safe='')}?{urlencode(query)}"
    )


def _reporter_address(env: Mapping[str, str], database: Mapping[str, str]) -> str:
    """Return hosts and ports as a URI has them: `db:5432`, `[::1]:5432`, `db-0:5432,db-1:5432`."""
    hosts = (env.get("REPORTER_HOST") or database["host"]).split(",")
    if hosts[0].startswith("/"):
        raise SettingsError(
            "REPORTER_HOST is not set, and DATABASE_URL names a socket, which pods cannot reach; set REPORTER_HOST to "
            "the database's host name"
        )
    given = database.get("port", "").split(",")
    ports = given if len(given) == len(hosts) else given[:1] * len(hosts)
    if env.get("REPORTER_PORT"):
        ports = [str(_integer(env, "REPORTER_PORT", 5432, highest=65535))] * len(hosts)
    return ",".join(
        f"{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port or 5432}"
        for host, port in zip(hosts, ports, strict=True)
    )


def _required(env: Mapping[str, str], name: str, what: str) -> str:
    if not (value := env.get(name)):
        raise SettingsError(f"{name} is not set; set it to {what}")
    return value


def _choice(env: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    if not env.get(name):
        return default
    value = env[name].lower()
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; write one of {', '.join(allowed)}")
    return value


def _integer(env: Mapping[str, str], name: str, default: int, lowest: int = 1, highest: int = 1_000_000) -> int:
    text = env.get(name) or str(default)
    if not (text.isdecimal() and lowest <= int(text) <= highest):
        raise SettingsError(f"{name} is {text!r}; write a whole number from {lowest} to {highest}")
    return int(text)


def _names(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(found.strip() for found in env.get(name, "").split(",") if found.strip())


def _namespace_selector(env: Mapping[str, str]) -> str:
    selector = env.get("WATCH_NAMESPACE_SELECTOR", "").strip()
    if selector and _names(env, "WATCH_NAMESPACES"):
        raise SettingsError("WATCH_NAMESPACES and WATCH_NAMESPACE_SELECTOR are both set; write names or labels")
    return selector


def _limits(env: Mapping[str, str]) -> Limits:
    default = Limits()
    return Limits(
        studies_per_namespace=_integer(env, "STUDIES_PER_NAMESPACE", default.studies_per_namespace),
        trials_per_study=_integer(env, "TRIALS_PER_STUDY", default.trials_per_study),
        reports_per_trial=_integer(env, "REPORTS_PER_TRIAL", default.reports_per_trial, highest=2**31),
        bytes_per_study=_integer(env, "BYTES_PER_STUDY", default.bytes_per_study, lowest=1_000_000, highest=2**53),
        bytes_per_namespace=_integer(
            env, "BYTES_PER_NAMESPACE", default.bytes_per_namespace, lowest=1_000_000, highest=2**53
        ),
    )


def _classes(env: Mapping[str, str]) -> tuple[str, ...]:
    classes = _names(env, "SAMPLER_CLASSES")
    for name in classes:
        if not _CLASS.fullmatch(name):
            raise SettingsError(f"SAMPLER_CLASSES: {name!r} is not a class; write package.module:Class")
    return classes


def _service(env: Mapping[str, str], variable: str = "OPERATOR_SERVICE") -> tuple[str, str] | None:
    if not (text := env.get(variable)):
        return None
    namespace, _, name = text.partition("/")
    if not (namespace and name) or "/" in name:
        raise SettingsError(f"{variable} is {text!r}; write namespace/name")
    return namespace, name


def _pod(env: Mapping[str, str]) -> tuple[str, str, str] | None:
    if not (text := env.get("OPERATOR_POD")):
        return None
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise SettingsError(f"OPERATOR_POD is {text!r}; write namespace/name/uid")
    return parts[0], parts[1], parts[2]


def _read_file(name: str, path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: {path} cannot be read as a PEM file: {error}") from None
