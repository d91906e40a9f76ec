"""The HTTP service: routes, guards and limits put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer

from ragline.config import Config
from ragline.http import ask, collections, documents, health, problems, search
from ragline.http.guard import Guard
from ragline.http.limits import Edge, Limits
from ragline.wiring import open_app

# Each ingest starts parsers of its own; more at once would only take each other's processors.
_INGESTS_AT_ONCE = 4
_ANYWHERE = problems.declared(403, 408, 413, 421, 500, 504)
_BEHIND_THE_KEY = problems.declared(401, 503)


def create_app(config: Config) -> FastAPI:
    """Return the service over the database of `config`, opened and closed by its lifespan.

    Without an API key it must be reachable from this machine only; `serve` sees to that.
    """

    @asynccontextmanager
    async def lifespan(service: FastAPI) -> AsyncIterator[None]:
        async with open_app(config, search_workload="serve", ingest_workload="serve") as ragline:
            service.state.ragline = ragline
            service.state.ingesting = asyncio.Semaphore(_INGESTS_AT_ONCE)
            yield

    service = FastAPI(
        title="ragline",
        version=version("ragline"),
        description="RAG on PostgreSQL and pgvector. Every error is application/problem+json.",
        lifespan=lifespan,
        # Those pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_ANYWHERE,
    )
    bearer = HTTPBearer(auto_error=False, description="The key of RAGLINE_API_KEY.")
    locked = [Security(bearer)] if config.api_key else []
    behind_the_key = (ask.router, search.router, documents.router, collections.router)
    for router in behind_the_key:
        service.include_router(router, dependencies=locked, responses=_BEHIND_THE_KEY)
    service.include_router(health.router)
    problems.install(service, (*behind_the_key, health.router))
    # The last one added is the first one to see a request.
    service.add_middleware(Limits, deadline_s=config.query_timeout_s)
    service.add_middleware(Guard, key=config.api_key)
    service.add_middleware(Edge)
    return service
