"""The HTTPS server: who is asked what. Each request is authenticated here, before anything else is done with it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from study_operator.api import discovery, openapi, replies
from study_operator.api.acts import Acts
from study_operator.api.front_proxy import FrontProxy, common_name
from study_operator.api.refusals import Refusal, internal, method_not_allowed, no_such_path, too_large, unauthorized
from study_operator.api.resources import GROUP, GROUP_VERSION
from study_operator.api.serving import USER, Trials
from study_operator.texts import one_line

log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# What is asked has a small body. Beyond this a request is refused unread.
_LONGEST_BODY = 1 << 16


def application(front_proxy: Callable[[], FrontProxy], trials: Trials, acts: Acts) -> web.Application:
    """Return the application.

    Args:
        front_proxy: returns how the API server proves itself now.
        trials: answers what is asked of the resources.
        acts: notes what the operator is asked to do.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            certificate = request.transport and request.transport.get_extra_info("peercert")
            user = front_proxy().user(common_name(certificate or None), request.headers.items())
            if user is None:
                raise unauthorized()
            request[USER] = user
            return await handler(request)
        except Refusal as refusal:
            if refusal.code >= 500:
                log.warning("%s %s: %s", request.method, one_line(request.path), refusal.message)
            return replies.refused(refusal)
        except web.HTTPRequestEntityTooLarge:
            return replies.refused(too_large(_LONGEST_BODY))
        except web.HTTPException as error:
            missing = error.status == 404
            return replies.refused(no_such_path() if missing else method_not_allowed(request.method))
        except (ConnectionError, TimeoutError):
            log.debug("%s %s: the client is gone, or does not read", request.method, one_line(request.path))
            raise
        except Exception:
            log.exception("%s %s failed", request.method, one_line(request.path))
            return replies.refused(internal())

    app = web.Application(middlewares=[guarded], client_max_size=_LONGEST_BODY)
    base = f"/apis/{GROUP_VERSION}"
    space = f"{base}/namespaces/{{namespace}}"
    for path, handler in {
        "/apis": _groups,
        "/apis/": _groups,
        f"/apis/{GROUP}": _always(discovery.group()),
        base: _always(discovery.resources()),
        "/openapi/v2": _always(openapi.v2()),
        "/openapi/v3": _always(openapi.v3_index()),
        f"/openapi/v3/apis/{GROUP_VERSION}": _always(openapi.v3()),
        f"{base}/studytrials": trials.list,
        f"{space}/studytrials": trials.list,
        f"{space}/studytrials/{{name}}": trials.get,
        f"{space}/studytrials/{{name}}/reports": trials.reports,
        f"{base}/studytrialsets": trials.list_sets,
        f"{space}/studytrialsets": trials.list_sets,
        f"{space}/studytrialsets/{{name}}": trials.get_set,
    }.items():
        app.router.add_get(path, handler)
    app.router.add_post(f"{space}/studytrials/{{name}}/stop", acts.stop)
    app.router.add_post(f"{space}/studytrialsets/{{name}}/purge", acts.purge)
    return app


def _always(content: dict[str, Any]) -> _Handler:
    """Return a handler of what never changes."""
    etag = openapi.digest(content)

    async def handler(request: web.Request) -> web.StreamResponse:
        return replies.unchanged(request, etag) or replies.answer(content, etag)

    return handler


async def _groups(request: web.Request) -> web.StreamResponse:
    """Say which groups there are, or with which resources."""
    version = discovery.aggregated_version(request.headers.get("Accept", ""))
    if version is None:
        return replies.answer(discovery.groups())
    content, kind = discovery.aggregated(version)
    etag = openapi.digest(content)
    return replies.unchanged(request, etag) or replies.answer(content, etag, kind)
