"""`/healthz` and `/readyz`, which need no key."""

from functools import partial

from fastapi import APIRouter, Request, Response

from ragline.http.guard import has_key
from ragline.http.inputs import Ragline
from ragline.watch import health as watch
from ragline.watch.health import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """Say that the process lives; the database is not asked."""
    return watch.health(())


@router.get(
    "/readyz", responses={503: {"model": Health, "description": "A check fails; see `checks`."}}
)
async def readyz(app: Ragline, request: Request, response: Response) -> Health:
    """Check database, schema, isolation, pool and model; details are for those with the key."""
    found = await watch.look(partial(app.pool, app.search_workload), app.embedder)
    response.status_code = 503 if found.status == "fail" else 200
    key = app.config.api_key
    return found if key is None or has_key(request.headers, key) else found.without_details()
