"""The gate on Cranfield: a search that looks at one neighbour is told from the usual one."""

from __future__ import annotations

from pathlib import Path

import pytest

import evaluated
import judged_sets
from command import Command, one_object
from evaluated import COLLECTION, prepared, run
from judged_sets import NotThere
from ragline.core.dsn import Dsn
from ragline.core.runs import Settings
from ragline.models.embed_fake import FakeEmbedder


async def test_one_neighbour_at_a_time_is_found_out_by_the_metrics_of_cranfield(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    try:
        data = judged_sets.cranfield()
    except NotThere as error:
        pytest.skip(f"not run: {error}")
    cases = data.dataset.cases
    async with evaluated.opened(own_dsn, tmp_path, embedder=FakeEmbedder(256)) as app:
        await prepared(app, cases, data.texts)
        for name, ef_search in (("normal", None), ("again", None), ("narrow", 1)):
            settings = Settings(collections=(COLLECTION,), method="vector", ef_search=ef_search)
            await run(app, settings, name=name)
    ragline = Command(folder=tmp_path, more={"DATABASE_URL": own_dsn.for_sqlalchemy("test")})

    same = ragline.run("eval", "compare", "normal", "again")
    worse = ragline.run("eval", "compare", "normal", "narrow", "--json")

    assert (same.returncode, same.stderr) == (0, "")
    assert worse.returncode == 4, worse.stderr
    found = one_object(worse.stdout)
    failed = {row["metric"]: row for row in found["verdict"]["rows"] if row["status"] == "fail"}
    assert {"recall@10", "ndcg@10"} <= failed.keys()
    assert all(row["n"] == len(cases) for row in failed.values())
    assert all(row["high"] < 0 for row in failed.values())
    for metric, row in failed.items():
        assert metric in worse.stderr
        assert f" {row['baseline']:.4g} -> {row['value']:.4g}" in worse.stderr
