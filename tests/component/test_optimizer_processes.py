"""Optimizer processes as the operator uses them: real sockets, forks, limits and signals."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from building import study
from optimizer_server import optimizer_server, process_of, remembered, shared_socket
from ports import free_port
from process import get
from waiting import wait_until

from study_operator.model.batch import Stored
from study_operator.model.history import History, StoredStudy, StoredTrial
from study_operator.model.study import Refused, Study
from study_operator.model.trial import TrialRow, TrialState
from study_operator.processes import wire
from study_operator.processes.client import Limits, Optimizers, study_id
from study_operator.processes.errors import (
    OptimizerBusy,
    OptimizerError,
    OptimizerLost,
    OptimizerUnavailable,
    SamplerFailed,
)
from study_operator.processes.lanes import End
from study_operator.processes.remote_optimizer import RemoteOptimizer

MIB = 2**20
HOSTILE = """
import ctypes, os, signal, time
from optuna.samplers import RandomSampler

class Sleeps(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        time.sleep(600)

class Ignores(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        ctypes.CDLL(None).sleep(600)  # in C, where Python's handlers would wait

class Computes(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        while True:
            pass

class Eats(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        self.food = [bytearray(2**26) for _ in range(100)]

class Kills(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        os.kill(os.getpid(), signal.SIGKILL)

class Looks(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        raise RuntimeError(" ".join(sorted(os.environ)))

class Forges(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        study._storage._open.trials[1] = next(iter(study._storage._open.trials.values())).__class__(1, 0)
        return {}
"""


@pytest.fixture(scope="module")
def plug_ins(tmp_path_factory) -> Iterator[str]:
    """The socket of a server that knows hostile plug-ins."""
    directory = tmp_path_factory.mktemp("plug_ins")
    (directory / "hostile_samplers.py").write_text(HOSTILE)
    with optimizer_server(str(directory)) as path:
        yield path


@pytest.fixture
def connect(request) -> Iterator[Callable[..., Optimizers]]:
    made: list[Optimizers] = []

    def to(path: str, processes: int = 4, seconds: float = 2.0, common: float = 1.0) -> Optimizers:
        names = ("Sleeps", "Ignores", "Computes", "Eats", "Kills", "Looks", "Forges")
        classes = [f"hostile_samplers:{name}" for name in names]
        made.append(Optimizers(path, Limits(processes, seconds, 256 * MIB, common), classes))
        return made[-1]

    yield to
    for optimizers in made:
        optimizers.close()


@pytest.fixture
def optimizers(connect) -> Optimizers:
    return connect(shared_socket(), common=20.0)


class Life:
    """A study whose rows are this object."""

    def __init__(self, optimizers: Optimizers, of: Study) -> None:
        self.optimizers, self.of = optimizers, of
        self.trials: list[StoredTrial] = []
        self.attrs: dict[str, Any] = {}
        self.optimizer: RemoteOptimizer | None = None

    def suggest(self) -> TrialRow:
        """The next trial, stored; loads the optimizer if there is none."""
        optimizer = self.optimizer = self.optimizer or self.load()
        batch = optimizer.suggest(1, 10**6)
        (change,) = batch.trials.values()
        trial_id = 1000 + 3 * change.number
        (row,) = optimizer.commit(Stored(datetime(2026, 1, 1), [trial_id]))
        self.attrs |= batch.system_attrs
        names, params = list(change.params), list(change.params.values())
        self.trials.append(
            StoredTrial(
                trial_id,
                change.number,
                TrialState.RUNNING,
                datetime(2026, 1, 1),
                None,
                None,
                names,
                [value for value, _ in params],
                [text for _, text in params],
                {},
                change.system_attrs,
                {},
            )
        )
        return row

    def load(self) -> RemoteOptimizer:
        stored = StoredStudy(self.of.optuna_name, self.of.directions, self.attrs, {})
        return self.optimizers.load(self.of, History(7, stored, list(self.trials)), [])


def patiently(call: Callable[[], Any]) -> Any:
    """Comes again while there is no place, as the operator does."""
    for _ in range(50):
        try:
            return call()
        except OptimizerBusy as busy:
            time.sleep(min(busy.again, 0.2))
    raise AssertionError("there is never a place")


def plug_in(name: str, **more: Any) -> Study:
    return study(
        name=name.lower(), namespace="hostile", uid=name, sampler={"class": f"hostile_samplers:{name}", **more}
    )


def fails(optimizers: Optimizers, of: Study) -> tuple[OptimizerUnavailable, OptimizerUnavailable]:
    """What a study gets that ends its process: first beside others, then alone."""
    found = []
    for _ in range(2):
        with pytest.raises(OptimizerUnavailable) as error:
            patiently(Life(optimizers, of).suggest)
        found.append(error.value)
    return found[0], found[1]


# What is sent


def test_a_study_lives_in_a_process_of_another_pid_and_its_suggestions_come_back(optimizers):
    of = study(name="plain", uid="plain")
    life = Life(optimizers, of)
    rows = [life.suggest() for _ in range(3)]
    assert [(row.number, row.job) for row in rows] == [(number, of.job_name(number)) for number in range(3)]
    assert all(of.space.choose(lambda name, _, params=row.params: params[name]) == row.params for row in rows)
    assert remembered(life.optimizer) == [(number, "RUNNING") for number in range(3)]
    assert process_of(optimizers, study_id(of)) != os.getpid()


def test_numbers_and_texts_of_every_kind_cross_the_border(optimizers):
    choices = ["a", "ä\u2028", 10**17, -1, 0.1, True, None, ""]
    of = study(name="kinds", uid="kinds", parameters=[{"name": "x", "categorical": {"choices": choices}}])
    life = Life(optimizers, of)
    seen = {repr(life.suggest().params["x"]) for _ in range(80)}
    assert seen == {repr(choice) for choice in choices}
    life.trials[0] = _with(
        life.trials[0], system_attrs={"huge": 2**80, "nested": [1, {"a": None}], "nan": float("nan")}
    )
    life.trials[1] = _with(life.trials[1], reports={0: float("inf"), 2**31 - 1: float("nan")})
    life.optimizer = None
    life.suggest()
    assert remembered(life.optimizer) == [(number, "RUNNING") for number in range(81)]


def _with(trial: StoredTrial, **fields: Any) -> StoredTrial:
    return StoredTrial(**{name: fields.get(name, getattr(trial, name)) for name in StoredTrial.__slots__})


def test_a_long_history_goes_in_pieces_and_a_trial_that_is_too_large_is_named(optimizers):
    of = study(name="long", uid="long")
    life = Life(optimizers, of)
    life.suggest()
    (first,) = life.trials
    text = "x" * 20_000
    life.trials = [
        _with(first, trial_id=number + 1, number=number, system_attrs={"text": text}) for number in range(1500)
    ]
    life.optimizer = None
    assert life.suggest().number == 1500
    life.trials[7] = _with(life.trials[7], system_attrs={"text": "x" * wire.MOST_BYTES})
    life.optimizer = None
    with pytest.raises(SamplerFailed, match="trial 7 is too large"):
        life.suggest()


def test_a_refusal_and_a_samplers_exception_keep_their_words(optimizers, connect, plug_ins):
    with pytest.raises(Refused) as refused:
        optimizers.check(study(sampler={"name": "TPE", "options": {"speed": 1}}))
    assert (refused.value.reason, "has no option 'speed'" in refused.value.message) == ("InvalidSamplerOptions", True)
    with pytest.raises(OptimizerError) as error:
        Life(connect(plug_ins), plug_in("Looks")).suggest()
    seen = str(error.value).split()
    assert not {"DATABASE_URL", "DATABASE_PASSWORD", "REPORTER_PASSWORD", "STUDY_KEY_SEED", "KUBECONFIG"} & set(seen)
    assert "PATH" in seen


def test_what_a_sampler_writes_about_other_trials_is_not_stored(connect, plug_ins):
    with pytest.raises(SamplerFailed, match="cannot be used"):
        Life(connect(plug_ins), plug_in("Forges")).suggest()


# Who harms nobody


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Sleeps", "ran out of time (2 s)"),
        ("Ignores", "ran out of time (2 s)"),
        ("Computes", "ran out of time (2 s)"),
        ("Eats", "ran out of memory (256 MiB)"),
        ("Kills", "ended its process"),
    ],
)
def test_a_sampler_that_does_not_behave_ends_its_own_process_and_rests(connect, plug_ins, name, words):
    seconds = 2.0 if "time" in words else 20.0
    optimizers, of = connect(plug_ins, seconds=seconds, common=seconds / 2), plug_in(name)
    beside, alone = fails(optimizers, of)
    assert isinstance(beside, OptimizerLost)
    assert isinstance(alone, SamplerFailed)
    assert words in str(alone)
    assert "while suggesting" in str(alone)
    again = time.monotonic()
    with pytest.raises(SamplerFailed):
        optimizers.check(of)  # nothing is asked
    assert time.monotonic() - again < 0.5
    with pytest.raises(OptimizerUnavailable) as edited:
        patiently(Life(optimizers, study(**_edited(of))).suggest)
    assert not isinstance(edited.value, OptimizerLost)


def _edited(of: Study) -> dict[str, Any]:
    return {
        "name": of.name,
        "namespace": of.namespace,
        "uid": of.uid,
        "generation": of.generation + 1,
        "sampler": {"class": of.sampler.cls},
    }


def test_options_that_ask_for_too_much_are_named(connect):
    options = {"n_ei_candidates": 10**9, "n_startup_trials": 0}
    of = study(name="greedy", namespace="hostile", uid="greedy", sampler={"name": "TPE", "options": options})
    optimizers = connect(shared_socket(), seconds=20.0, common=20.0)
    _, alone = fails(optimizers, of)
    assert "n_ei_candidates: 1000000000" in str(alone)
    assert "ran out of memory (256 MiB) while suggesting" in str(alone)


def test_others_are_served_within_a_second_meanwhile(connect, plug_ins):
    optimizers = connect(plug_ins, seconds=5.0)
    stop = threading.Event()

    def misbehave(number: int) -> None:
        name = ("Sleeps", "Eats", "Kills", "Ignores")[number % 4]
        of = study(
            name=f"h{number}", namespace="hostile", uid=f"h{number}", sampler={"class": f"hostile_samplers:{name}"}
        )
        while not stop.wait(0.05):
            try:
                Life(optimizers, of).suggest()
            except OptimizerUnavailable as error:
                stop.wait(min(error.again, 0.2))

    threads = [threading.Thread(target=misbehave, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    canary, took = Life(optimizers, study(name="canary", namespace="team", uid="canary")), []
    try:
        for _ in range(40):
            begun = time.monotonic()
            while True:
                try:
                    canary.suggest()
                    break
                except OptimizerUnavailable as error:
                    canary.optimizer = canary.optimizer if isinstance(error, OptimizerBusy) else None
                    time.sleep(error.again)
            took.append(time.monotonic() - begun)
            time.sleep(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert max(took) < 3.0, took  # a common process that is ended a second later, and loading anew
    assert sorted(took)[len(took) // 2] < 0.5, took


# Lives and deaths


@pytest.mark.parametrize("name", ["TPE", "Random", "Grid", "QMC"])
def test_a_process_that_is_killed_between_suggestions_changes_none(optimizers, name):
    options = {"n_startup_trials": 3} if name == "TPE" else {}
    parameters = [
        {"name": "x", "float": {"low": 0, "high": 1, "step": 0.1}},
        {"name": "n", "int": {"low": 1, "high": 3}},
    ]
    sampler = {"name": name, "options": options}
    lives = [
        Life(optimizers, study(name=f"{name.lower()}{number}", uid="same", parameters=parameters, sampler=sampler))
        for number in range(2)
    ]
    for number in range(8):
        calm, troubled = (life.suggest() for life in lives)
        assert calm.params == troubled.params, number
        kill(optimizers, lives[1])


def kill(optimizers: Optimizers, life: Life) -> None:
    pid = process_of(optimizers, study_id(life.of))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())
    life.optimizer = None
    # Nobody is to blame for this: the operator itself closes processes.
    with optimizers._changed:
        optimizers._lanes.ended(optimizers._loaded[study_id(life.of)][1], study_id(life.of), "", End.AWAY, 0.0)


def test_all_end_with_the_server_and_nobody_is_blamed(connect):
    with optimizer_server() as path:
        optimizers = connect(path)
        life = Life(optimizers, study(name="a", uid="a"))
        life.suggest()
        pid = process_of(optimizers, study_id(life.of))
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    with pytest.raises(OptimizerLost) as lost:
        life.suggest()
    assert lost.value.again == 1.0
    assert not optimizers.answers()


def test_a_process_ends_when_its_connection_does(connect):
    optimizers = connect(shared_socket())
    life = Life(optimizers, study(name="a", uid="a"))
    life.suggest()
    pid = process_of(optimizers, study_id(life.of))
    optimizers.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x00" * 100, b"\xff\xff\xff\xff"])
def test_what_is_no_request_ends_that_process_alone(optimizers, frame):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.connect(shared_socket())
        opened.settimeout(30)
        assert wire.decode(wire.receive(opened), int)
        opened.sendall(frame if frame == b"\xff\xff\xff\xff" else len(frame).to_bytes(4, "big") + frame)
        assert opened.recv(1) == b""
    assert optimizers.answers()


def test_the_probe_is_answered_beside_clients_that_say_nothing():
    port = free_port()
    with optimizer_server(HTTP_PORT=str(port)), ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        # A connection that is reset because its request was not read is a failure to the kubelet.
        assert [get(port, "/healthz") for _ in range(100)] == [(200, "ok\n")] * 100
