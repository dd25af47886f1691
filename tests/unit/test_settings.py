"""Settings from the environment: what each means, and that every error names its variable and keeps secrets."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from study_operator.settings import (
    TRIAL_STORAGE_DIRECTORY,
    ApiSettings,
    Limits,
    Settings,
    SettingsError,
    reader_dsn,
)

SEED = "0123456789abcdef0123456789abcdef"
REQUIRED = {
    "DATABASE_URL": "postgresql://optuna@db.example:5433/studies",
    "REPORTER_PASSWORD": "reporter's secret",
    "STUDY_KEY_SEED": SEED,
}
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def read(**env: str) -> Settings:
    """The settings of an environment that has what is required, and this."""
    return Settings.from_environment({**REQUIRED, **env})


def refusal(**env: str) -> str:
    with pytest.raises(SettingsError) as refused:
        read(**env)
    assert refused.value.__cause__ is None  # a driver's own error can quote what is secret
    return str(refused.value)


def reporter(**env: str) -> dict[str, str]:
    """The address that pods get, as libpq understands it."""
    return parse_dsn(read(**env).reporter_url)


def test_what_is_required_is_enough():
    settings = read()
    assert parse_dsn(settings.dsn) == {
        "user": "optuna",
        "host": "db.example",
        "port": "5433",
        "dbname": "studies",
        "connect_timeout": "5",
        "application_name": "study-operator",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
    }
    assert parse_dsn(settings.reporter_url) == {
        "user": "study_reporter",
        "password": "reporter's secret",
        "host": "db.example",
        "port": "5433",
        "dbname": "studies",
        "connect_timeout": "5",
        "application_name": "study-trial",
    }
    assert settings.study_key_seed == SEED
    assert settings.reporter_password == "reporter's secret"
    plain = {
        "reporter_user": "study_reporter",
        "manage_reporter": True,
        "reader_user": "study_reader",
        "reader_password": None,
        "reporter_ca": None,
        "watch_namespaces": (),
        "namespace_selector": "",
        "allowed_namespaces": (),
        "log_format": "text",
        "log_level": "info",
        "workers": 8,
        "storage_threads": 8,
        "resync_seconds": 300.0,
        "http_port": 8080,
    }
    assert {name: getattr(settings, name) for name in plain} == plain


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("REPORTER_USER", "trials", "reporter_user", "trials"),
        ("READER_USER", "people", "reader_user", "people"),
        ("READER_PASSWORD", "a word", "reader_password", "a word"),
        ("MANAGE_REPORTER", "false", "manage_reporter", False),
        ("MANAGE_REPORTER", "True", "manage_reporter", True),
        ("WATCH_NAMESPACES", "a", "watch_namespaces", ("a",)),
        ("WATCH_NAMESPACES", " a, b ,,c", "watch_namespaces", ("a", "b", "c")),
        ("WATCH_NAMESPACES", " , ", "watch_namespaces", ()),
        ("WATCH_NAMESPACE_SELECTOR", " a=b,c in (d, e) ", "namespace_selector", "a=b,c in (d, e)"),
        ("ALLOWED_NAMESPACES", "kube-ml, system", "allowed_namespaces", ("kube-ml", "system")),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("WORKERS", "1", "workers", 1),
        ("STORAGE_THREADS", "20", "storage_threads", 20),
        ("RESYNC_SECONDS", "30", "resync_seconds", 30.0),
        ("HTTP_PORT", "0", "http_port", 0),
        ("HTTP_PORT", "65535", "http_port", 65535),
        ("OPERATOR_SERVICE", "system/operator", "service", ("system", "operator")),
        ("STUDIES_PER_NAMESPACE", "3", "limits", Limits(studies_per_namespace=3)),
        ("TRIALS_PER_STUDY", "3", "limits", Limits(trials_per_study=3)),
        ("REPORTS_PER_TRIAL", "3", "limits", Limits(reports_per_trial=3)),
        ("BYTES_PER_STUDY", "1000000", "limits", Limits(bytes_per_study=1_000_000)),
        ("BYTES_PER_NAMESPACE", "1000000", "limits", Limits(bytes_per_namespace=1_000_000)),
        ("GPU_NAMES", "gpu, Ascend", "gpu_names", ("gpu", "ascend")),
    ],
)
def test_every_setting_can_be_changed(variable, text, field, value):
    assert getattr(read(**{variable: text}), field) == value


@pytest.mark.parametrize(
    "variable",
    [
        "REPORTER_USER",
        "READER_USER",
        "READER_PASSWORD",
        "MANAGE_REPORTER",
        "WATCH_NAMESPACES",
        "WATCH_NAMESPACE_SELECTOR",
        "ALLOWED_NAMESPACES",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "WORKERS",
        "STORAGE_THREADS",
        "RESYNC_SECONDS",
        "HTTP_PORT",
        "OPERATOR_SERVICE",
        "DATABASE_PASSWORD",
        "DATABASE_CA_FILE",
        "REPORTER_HOST",
        "REPORTER_PORT",
        "REPORTER_SSLMODE",
        "REPORTER_CA_FILE",
    ],
)
def test_an_empty_variable_is_one_that_is_not_set(variable):
    assert read(**{variable: ""}) == read()


def test_settings_come_from_the_processs_environment_unless_given(monkeypatch):
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == read()


# Errors


def test_namespaces_are_named_or_selected():
    with pytest.raises(SettingsError, match="WATCH_NAMESPACES and WATCH_NAMESPACE_SELECTOR are both set; write"):
        read(WATCH_NAMESPACES="a", WATCH_NAMESPACE_SELECTOR="b=c")


@pytest.mark.parametrize("variable", REQUIRED)
@pytest.mark.parametrize("value", ["", None])
def test_what_is_required_and_missing_is_named(variable, value):
    env = {name: text for name, text in REQUIRED.items() if name != variable} | (
        {} if value is None else {variable: ""}
    )
    with pytest.raises(SettingsError, match=rf"^{variable} is not set; set it to \S"):
        Settings.from_environment(env)


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("STUDY_KEY_SEED", "short", "STUDY_KEY_SEED has 5 characters; write at least 32 random ones"),
        ("MANAGE_REPORTER", "yes", "MANAGE_REPORTER is 'yes'; write one of true, false"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT is 'xml'; write one of text, json"),
        ("LOG_LEVEL", "trace", "LOG_LEVEL is 'trace'; write one of debug, info, warning, error"),
        ("WORKERS", "0", "WORKERS is '0'; write a whole number from 1 to 1000000"),
        ("WORKERS", "eight", "WORKERS is 'eight'; write a whole number from 1"),
        ("WORKERS", "-1", "WORKERS is '-1'; write"),
        ("STORAGE_THREADS", "1.5", "STORAGE_THREADS is '1.5'; write"),
        ("RESYNC_SECONDS", "5m", "RESYNC_SECONDS is '5m'; write"),
        ("HTTP_PORT", "65536", "HTTP_PORT is '65536'; write a whole number from 0 to 65535"),
        ("OPERATOR_SERVICE", "operator", "OPERATOR_SERVICE is 'operator'; write namespace/name"),
        ("OPERATOR_SERVICE", "a/b/c", "OPERATOR_SERVICE is 'a/b/c'; write namespace/name"),
        ("REPORTER_PORT", "postgres", "REPORTER_PORT is 'postgres'; write a whole number from 1 to 65535"),
        ("REPORTER_PORT", "0", "REPORTER_PORT is '0'; write"),
        ("REPORTER_SSLMODE", "on", "REPORTER_SSLMODE is 'on'; write one of disable, allow, prefer, require, verify-ca"),
        ("REPORTER_CA_FILE", "/nowhere/ca.crt", "REPORTER_CA_FILE: /nowhere/ca.crt cannot be read as a PEM file: "),
        ("DATABASE_URL", "postgresql:///studies", "DATABASE_URL must name a host and a database"),
        ("DATABASE_URL", "postgresql://db.example", "DATABASE_URL must name a host and a database"),
        ("DATABASE_URL", "postgresql:///studies?host=/run/postgresql", "REPORTER_HOST is not set, and DATABASE_URL na"),
        ("DATABASE_URL", "mysql://db/studies", "DATABASE_URL cannot be read; write postgresql://user@host:5432/data"),
        ("DATABASE_URL", "postgresql://db/studies?nonsense=1", "DATABASE_URL cannot be read"),
    ],
)
def test_an_error_names_the_variable_and_says_what_to_write(variable, text, words):
    assert refusal(**{variable: text}).startswith(words)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://optuna:hunter2%@db/studies",
        "postgresql://optuna:hunter2@db:port:1/studies",
        "postgres+x://optuna:hunter2@db/studies",
        "optuna:hunter2@db/studies",
        "host=db dbname=studies passwd=hunter2",
    ],
)
def test_an_error_does_not_show_the_password(url):
    assert "hunter2" not in refusal(DATABASE_URL=url)


def test_a_file_that_is_no_pem_is_refused(tmp_path):
    (tmp_path / "ca.der").write_bytes(b"0\x82\x03")
    assert refusal(REPORTER_CA_FILE=str(tmp_path / "ca.der")).startswith("REPORTER_CA_FILE: ")


# Secrets


def test_secrets_are_not_shown(tmp_path):
    (tmp_path / "ca.crt").write_text(PEM)
    settings = read(
        DATABASE_PASSWORD="hunter2",
        REPORTER_PASSWORD="tell nobody",
        READER_PASSWORD="nor this",
        REPORTER_CA_FILE=str(tmp_path / "ca.crt"),
    )
    shown = f"{settings!r} {settings}"
    for secret in ("hunter2", "tell nobody", "tell%20nobody", "nor this", SEED):
        assert secret not in shown


# The reader


def test_the_reader_has_the_operators_place_and_a_login_of_its_own():
    env = {
        "DATABASE_URL": "postgresql://optuna:hunter2@db.example/studies?sslmode=require",
        "READER_PASSWORD": "a ' word",
    }
    found = parse_dsn(reader_dsn(env))
    expected = {"host": "db.example", "dbname": "studies", "sslmode": "require", "application_name": "study-reader"}
    assert {name: found[name] for name in expected} == expected
    assert (found["user"], found["password"]) == ("study_reader", "a ' word")
    assert parse_dsn(reader_dsn({**env, "READER_USER": "people", "DATABASE_PASSWORD": "x"}))["user"] == "people"
    with pytest.raises(SettingsError, match="READER_PASSWORD is not set; set it to the password"):
        reader_dsn({**env, "READER_PASSWORD": ""})
    with pytest.raises(SettingsError, match="another login already"):
        reader_dsn({**env, "READER_USER": "optuna"})
    for user in ("optuna", "study_reporter"):
        words = f"READER_USER is '{user}', which is another login already; give the reader one of its own"
        assert refusal(READER_USER=user, READER_PASSWORD="x") == words
        assert read(READER_USER=user).reader_password is None, "without the trials API there is no reader"


# The operator's own address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@h/d", {"user": "u", "host": "h", "dbname": "d"}),
        ("postgres://u@h/d", {"user": "u", "host": "h", "dbname": "d"}),
        ("postgresql+psycopg2://u@h/d", {"user": "u", "host": "h", "dbname": "d"}),
        (
            "postgresql://u:p%40ss@h:1/d%20b",
            {"user": "u", "password": "p@ss", "host": "h", "port": "1", "dbname": "d b"},
        ),
        ("postgresql://u@[::1]:5433/d", {"user": "u", "host": "::1", "port": "5433", "dbname": "d"}),
        ("host=h dbname=d user=u", {"user": "u", "host": "h", "dbname": "d"}),
        ("postgresql://h/d?connect_timeout=30", {"host": "h", "dbname": "d", "connect_timeout": "30"}),
        ("postgresql://h/d?sslmode=verify-full", {"host": "h", "dbname": "d", "sslmode": "verify-full"}),
    ],
)
def test_the_database_may_be_written_in_many_ways(url, expected):
    found = parse_dsn(read(DATABASE_URL=url).dsn)
    assert expected.items() <= found.items()


def test_a_password_and_a_ca_of_their_own_count_for_more_than_the_url():
    url = "postgresql://u:old@h/d?sslrootcert=/old.crt"
    found = parse_dsn(read(DATABASE_URL=url, DATABASE_PASSWORD="n e'w\\", DATABASE_CA_FILE="/ca/ca.crt").dsn)
    assert (found["password"], found["sslrootcert"]) == ("n e'w\\", "/ca/ca.crt")


# The address that pods get


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, {"host": "db.example", "port": "5433"}),
        ({"DATABASE_URL": "postgresql://h/d"}, {"host": "h", "port": "5432"}),
        ({"REPORTER_HOST": "proxy", "REPORTER_PORT": "6432"}, {"host": "proxy", "port": "6432"}),
        ({"REPORTER_HOST": "proxy"}, {"host": "proxy", "port": "5433"}),
        ({"REPORTER_HOST": "fd00::5"}, {"host": "fd00::5", "port": "5433"}),
        ({"REPORTER_HOST": "[fd00::5]"}, {"host": "fd00::5", "port": "5433"}),
        ({"DATABASE_URL": "postgresql://u@[::1]/d"}, {"host": "::1", "port": "5432"}),
        ({"DATABASE_URL": "postgresql:///d?host=/run", "REPORTER_HOST": "db"}, {"host": "db", "port": "5432"}),
        ({"DATABASE_URL": "postgresql://a:1,b:2/d"}, {"host": "a,b", "port": "1,2"}),
        ({"DATABASE_URL": "postgresql://a,b/d"}, {"host": "a,b", "port": "5432,5432"}),
        ({"DATABASE_URL": "postgresql://a:1,[::1]:2/d"}, {"host": "a,::1", "port": "1,2"}),
        ({"DATABASE_URL": "postgresql://a:1,b:2/d", "REPORTER_HOST": "proxy"}, {"host": "proxy", "port": "1"}),
        ({"DATABASE_URL": "postgresql://a:1,b:2/d", "REPORTER_PORT": "6432"}, {"host": "a,b", "port": "6432,6432"}),
        (
            {"DATABASE_URL": "postgresql://a,b/d?target_session_attrs=read-write"},
            {"host": "a,b", "target_session_attrs": "read-write"},
        ),
        ({"DATABASE_URL": "postgresql://h/d?sslmode=verify-full"}, {"sslmode": "verify-full"}),
        (
            {"DATABASE_URL": "postgresql://h/d?sslmode=verify-full", "REPORTER_SSLMODE": "Require"},
            {"sslmode": "require"},
        ),
        ({"REPORTER_USER": "a b@c"}, {"user": "a b@c"}),
        ({"DATABASE_URL": "postgresql://h/d%2Fe%3Ff"}, {"dbname": "d/e?f"}),
    ],
)
def test_pods_reach_the_database_as_the_operator_does_or_as_told(env, expected):
    assert expected.items() <= reporter(**env).items()


def test_pods_get_nothing_of_the_operators_own_login():
    url = "postgresql://optuna:hunter2@h/d?options=-csearch_path%3Dx&sslkey=/key&sslrootcert=/operators-ca.crt"
    found = reporter(DATABASE_URL=url, DATABASE_PASSWORD="hunter3")
    assert set(found) == {"user", "password", "host", "port", "dbname", "connect_timeout", "application_name"}
    assert (found["user"], found["password"]) == ("study_reporter", "reporter's secret")


def test_pods_get_the_ca_that_is_for_them(tmp_path: Path):
    (tmp_path / "ca.crt").write_text(PEM)
    settings = read(REPORTER_CA_FILE=str(tmp_path / "ca.crt"), REPORTER_SSLMODE="verify-full")
    assert settings.reporter_ca == PEM
    found = parse_dsn(settings.reporter_url)
    assert found["sslrootcert"] == f"{TRIAL_STORAGE_DIRECTORY}/ca.crt" == "/var/run/secrets/study-operator.io/ca.crt"
    assert found["sslmode"] == "verify-full"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_password_reaches_the_pod_as_it_is(password):
    url = read(REPORTER_PASSWORD=password).reporter_url
    assert parse_dsn(url)["password"] == password
    assert unquote(url.split("@")[0].split(":")[2]) == password


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_password_of_the_operators_own_is_taken_as_it_is(password):
    assert parse_dsn(read(DATABASE_PASSWORD=password).dsn)["password"] == password


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("", ()),
        ("a:B", ("a:B",)),
        (" pkg.module:Class, _other:Class2 ,", ("pkg.module:Class", "_other:Class2")),
    ],
)
def test_the_classes_of_samplers_that_may_be_used(text, classes):
    assert read(SAMPLER_CLASSES=text).sampler_classes == classes


@pytest.mark.parametrize("name", ["TPE", "a.b.C", "a:b.C", "a:", ":B", "a b:C", "a:B\x00", "ä:B", "*"])
def test_what_is_no_class_is_refused(name):
    assert refusal(SAMPLER_CLASSES=f"a:B,{name}") == (
        f"SAMPLER_CLASSES: {name!r} is not a class; write package.module:Class"
    )


@pytest.mark.parametrize(
    ("env", "image"), [({}, None), ({"TRIAL_IMAGE": ""}, None), ({"TRIAL_IMAGE": "a/b:1"}, "a/b:1")]
)
def test_the_image_of_the_sidecar(env, image):
    assert read(**env).trial_image == image


API = {
    "DATABASE_URL": "postgresql://operator@db:5432/studies",
    "READER_PASSWORD": "secret of the reader",
    "API_SERVICE": "system/trials",
}


def test_the_trials_api_gets_none_of_the_operators_secrets():
    found = ApiSettings.from_environment(API)
    assert (found.service, found.port, found.http_port, found.connections) == (("system", "trials"), 10250, 8080, 4)
    assert found.certificate_directory is None
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"API_SERVICE": ""}, "API_SERVICE is not set"),
        ({"API_SERVICE": "trials"}, "API_SERVICE is 'trials'; write namespace/name"),
        ({"API_PORT": "https"}, "API_PORT is 'https'; write a whole number"),
        ({"READER_PASSWORD": ""}, "READER_PASSWORD is not set"),
    ],
)
def test_settings_of_the_trials_api_that_cannot_be_used(changed, words):
    with pytest.raises(SettingsError, match=words):
        ApiSettings.from_environment(API | changed)
