"""Optuna's own cases for storages, over mirrors of a real database and, as the control, over its storage in memory.

Optuna ships the cases for those who write storages, so they are run as they are: facts of the installed version.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from database import TestDatabase
from mirrors import Mirrors
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.testing.pytest_storages import StorageTestCase


class TestMirror(StorageTestCase):
    @pytest.fixture
    def storage(self, empty_database: TestDatabase) -> Iterator[BaseStorage]:
        storage = Mirrors(empty_database.url)
        yield storage
        storage.close()


class TestInMemory(StorageTestCase):
    @pytest.fixture
    def storage(self) -> BaseStorage:
        return InMemoryStorage()
