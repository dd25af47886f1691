"""Lets the API server trust this replica: adds its authority to the one APIService, and keeps it there.

Several replicas write the same field. Each reads it, adds its own authority, and writes it if nobody has written it
meanwhile (resourceVersion); otherwise it reads again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from study_operator.api.resources import GROUP, VERSION
from study_operator.api.serving_certificate import bundle_with, has
from study_operator.kube.aggregation import Aggregation
from study_operator.kube.api_server import ApiError

API_SERVICE = f"{VERSION}.{GROUP}"
_ATTEMPTS = 5  # against other replicas that write at the same moment

log = logging.getLogger(__name__)


class Untrusted(Exception):
    """The API server does not trust this replica yet. The message says why."""


async def trusted(cluster: Aggregation, service: tuple[str, str], authority: str, now: Callable[[], datetime]) -> bool:
    """See to it that the APIService has this replica's authority, and none that has expired.

    Args:
        cluster: the API server.
        service: namespace and name of the Service of these replicas. Another one's APIService is left alone.
        authority: as PEM.
        now: returns the time, aware.

    Returns:
        Whether it had to be written.

    Raises:
        Untrusted: there is no such APIService, or it is of another Service.
        ApiError: the API server refuses a call or cannot be reached.
    """
    for _ in range(_ATTEMPTS):
        try:
            found = await cluster.api_service(API_SERVICE)
        except ApiError as error:
            if error.status == 404:
                raise Untrusted(f"there is no APIService {API_SERVICE}: the chart makes it") from None
            raise
        spec = found.get("spec") or {}
        its = spec.get("service") or {}
        if (its.get("namespace"), its.get("name")) != service:
            raise Untrusted(
                f"APIService {API_SERVICE} leads to the Service {its.get('namespace')}/{its.get('name')}, and not to "
                f"{service[0]}/{service[1]}: another release serves the trials of this cluster; set "
                "trialsApi.enabled=false in one of them"
            )
        bundle = spec.get("caBundle") or ""
        if has(bundle, authority):
            return False
        try:
            await cluster.set_ca_bundle(found, bundle_with(bundle, authority, now()))
        except ApiError as error:
            if error.status != 409:
                raise
            await asyncio.sleep(0.1)
        else:
            log.info("the API server trusts this replica now: its authority is in APIService %s", API_SERVICE)
            return True
    raise Untrusted(f"other replicas write APIService {API_SERVICE} at the same time, again and again")
