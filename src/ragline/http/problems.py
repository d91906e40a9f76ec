"""Errors over HTTP: one JSON shape for all of them (RFC 9457), told to OpenAPI as well."""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from ragline.errors import (
    ModelRefused,
    ModelReplyInvalid,
    ModelUnavailable,
    RaglineError,
    RemoteModelError,
)

MEDIA_TYPE = "application/problem+json"
_BLANK = "about:blank"
_MOST_ERRORS = 20
_LONGEST_PLACE = 200
# Where a model is, and what its provider says of itself and of us, is for the log alone.
_OF_MODELS: dict[type[RaglineError], str] = {
    ModelRefused: "a model that this server uses cannot be asked as it is set up",
    ModelUnavailable: "a model that this server uses does not answer now; repeat it later",
    ModelReplyInvalid: "a model that this server uses answered what cannot be used",
    RemoteModelError: "a model that this server uses failed",
}

log = logging.getLogger("ragline.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalid:
    """One thing wrong with a request; `at` is where, such as `body/documents/0/source`."""

    at: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a request was not fulfilled. `type` is for machines, `detail` a sentence for people."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[Invalid, ...] = ()


def response(
    scope: Mapping[str, Any],
    status: int,
    detail: str,
    *,
    type_: str = _BLANK,
    errors: Sequence[Invalid] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as a response to the request of `scope`."""
    problem = Problem(
        type=type_,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=scope.get("state", {}).get("request_id", ""),
        errors=tuple(errors),
    )
    # ASCII: a message may quote what cannot be encoded.
    body = json.dumps(asdict(problem), ensure_ascii=True)
    return Response(body, status, headers, MEDIA_TYPE)


def unexpected(scope: Mapping[str, Any]) -> Response:
    """Return a problem that says nothing of our inside; the log says it, under the request's id."""
    detail = "something went wrong that is not your fault; the server's log tells it by request_id"
    return response(scope, 500, detail)


def install(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Make every error of `app` a problem, and its OpenAPI page say so."""
    routes = [route for router in routers for route in router.routes]
    routes += [route for route in app.routes if isinstance(route, Route)]

    async def of_ours(request: Request, error: Exception) -> Response:
        return ours(request, error)

    async def http(request: Request, error: Exception) -> Response:
        return _http(request, error, routes)

    app.add_exception_handler(RaglineError, of_ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, http)
    # FastAPI's own way to change its page is to replace this method.
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses that a route can give, as FastAPI wants them."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses
    }


def ours(request: Request, error: Exception) -> Response:
    """Return one of our errors as a problem; those that say something of our inside, without it."""
    if not isinstance(error, RaglineError):
        raise error
    if error.status >= 500:
        log.error("request %s: %s", request.state.request_id, error)
    if error.status == 500:
        return unexpected(request.scope)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__).lower()
    return response(request.scope, error.status, _detail(error), type_=f"urn:ragline:{name}")


def _detail(error: RaglineError) -> str:
    if not isinstance(error, RemoteModelError):
        return str(error)
    said = next(said for kind, said in _OF_MODELS.items() if isinstance(error, kind))
    return f"{said}; the server's log tells more by request_id"


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = error.errors()
    if malformed := next((item for item in found if item["type"] == "json_invalid"), None):
        detail = (
            f"the body is not JSON: {malformed['ctx']['error']}, character {malformed['loc'][-1]}"
        )
        return response(request.scope, 400, detail)
    errors = [Invalid(at=_place(item["loc"]), detail=item["msg"]) for item in found[:_MOST_ERRORS]]
    detail = "; ".join(f"{item.at}: {item.detail}" for item in errors[:3])
    if len(found) > 3:
        detail += f"; and {len(found) - 3} more"
    return response(request.scope, 422, detail, errors=errors)


def _place(location: Sequence[object]) -> str:
    return "/".join(str(part) for part in location)[:_LONGEST_PLACE]


def _http(request: Request, error: Exception, routes: Sequence[BaseRoute]) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    path = request.scope["path"]
    if error.status_code == 404:
        detail = f"there is no {path!r} here; /openapi.json lists what there is"
        return response(request.scope, 404, detail)
    if error.status_code == 405:
        # Starlette names the methods of the first route only.
        allowed = sorted(_methods(routes, path))
        detail = f"{path} does not take {request.method}; it takes {' and '.join(allowed)}"
        return response(request.scope, 405, detail, headers={"Allow": ", ".join(allowed)})
    detail = error.detail
    if error.status_code == 400:
        detail = "the body is JSON that nobody can read: too deep, a number too long, or not UTF-8"
    return response(request.scope, error.status_code, detail, headers=error.headers)


def _methods(routes: Sequence[BaseRoute], path: str) -> set[str]:
    return {
        method
        for route in routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
    }


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the page with every problem under its own media type, which FastAPI cannot say."""
    if app.openapi_schema is None:
        page = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for operation in (o for path in page["paths"].values() for o in path.values()):
            for answer in operation["responses"].values():
                content = answer.get("content", {})
                schema = content.get("application/json", {}).get("schema", {})
                if schema.get("$ref", "").endswith("/Problem"):
                    content[MEDIA_TYPE] = content.pop("application/json")
        app.openapi_schema = page
    return app.openapi_schema
