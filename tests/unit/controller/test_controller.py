"""The process before it runs: everything is there, whatever calls back first."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kubernetes.aio import client

import study_operator
from study_operator.controller.namespaces import Namespaces
from study_operator.controller.workqueue import WorkQueue
from study_operator.kube.client import Cluster
from study_operator.manager import Manager
from study_operator.model.study import StudyKey
from study_operator.pool import BlockingPool
from study_operator.probes import Health
from study_operator.processes.client import Limits, Optimizers
from study_operator.settings import Settings
from study_operator.storage.database import Database

KEY = StudyKey("team", "digits")
PACKAGE = Path(study_operator.__file__).parent


@pytest.fixture
async def manager() -> AsyncIterator[Manager]:
    """A process that has not begun to run; there is neither an API server nor a database."""
    settings = Settings.from_environment(
        {
            "DATABASE_URL": "postgresql://operator@127.0.0.1:1/studies",
            "REPORTER_PASSWORD": "reporter",
            "STUDY_KEY_SEED": "a seed of these tests, long enough for all of them",
        }
    )
    queue: WorkQueue[StudyKey] = WorkQueue()
    cluster, database = Cluster(client.Configuration()), Database(settings.dsn)
    pool, listener = BlockingPool(1), ThreadPoolExecutor(1)
    health, namespaces = Health(), Namespaces(cluster.configuration, (), "", None)
    optimizers = Optimizers("/nowhere", Limits())
    manager = Manager(settings, cluster, "cluster", database, pool, listener, optimizers, queue, health, namespaces)
    yield manager
    await manager.follower.close()
    await cluster.close()
    pool.shutdown()
    listener.shutdown()


async def test_a_callback_may_come_before_the_process_runs(manager):
    controller = manager.controller
    controller.study_changed(KEY)
    controller.study_seen(KEY)
    controller.namespaces_changed()
    controller.job_ended(KEY)
    controller.job_moved(KEY)
    controller.trial_reported(7)
    controller.queue_served()
    assert controller.outage.words() is None
    assert not manager.replicas.serves(KEY)
    assert len(manager.queue) == 0, "this replica does not serve the study"


async def test_replicas_may_gain_and_lose_a_study_before_the_process_runs(manager):
    manager.serving.gained(KEY)
    assert len(manager.queue) == 1
    assert not manager.serving.busy(KEY)
    manager.serving.lost(KEY)


def classes() -> list[tuple[str, ast.ClassDef]]:
    return [
        (f"{path.relative_to(PACKAGE)}:{node.name}", node)
        for path in sorted([PACKAGE / "manager.py", *(PACKAGE / "controller").glob("*.py")])
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]


@pytest.mark.parametrize(("name", "node"), classes(), ids=[name for name, _ in classes()])
def test_no_attribute_comes_into_being_after_the_constructor(name, node):
    def assigned(function: ast.AST) -> set[str]:
        return {
            child.attr
            for child in ast.walk(function)
            if isinstance(child, ast.Attribute)
            and isinstance(child.ctx, ast.Store)
            and isinstance(child.value, ast.Name)
            and child.value.id == "self"
        }

    functions = {f.name: assigned(f) for f in node.body if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)}
    made = functions.pop("__init__", set())
    assert set().union(*functions.values()) <= made
