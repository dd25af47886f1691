"""Beside a neighbour who attacks the chart's embedded database: PgBouncer and the limit of each session hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import own_place
import psycopg2
import pytest
import pytest_asyncio
from canary import Street, street
from embedded import Embedded
from hostile_pods import EMBEDDED
from world import install_crd

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    embedded = Embedded()
    yield embedded
    embedded.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def embedded_street(embedded, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    """As `canary_street`, with the chart's embedded database."""
    folder = tmp_path_factory.mktemp("operator")
    with own_place.services(tmp_path_factory.mktemp("services")) as services:
        await install_crd(services["kubeconfig"])
        async with street(services, embedded.database, folder, **embedded.environment) as opened:
            yield opened


@pytest.mark.parametrize("neighbour", EMBEDDED, ids=str)
async def test_the_canary_is_left_alone(embedded, embedded_street, neighbour, record_property):
    with closing(psycopg2.connect(embedded.database.url)) as kept, kept.cursor() as cursor:
        record_property("neighbours", f"{neighbour}: {await embedded_street.leaves_alone(neighbour)}")
        cursor.execute("SELECT 1")  # a server that had recovered from the loss of a process would have ended it
