"""What requests may hold, who may send them, and what health amounts to; without a database."""

import asyncio
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers

from ragline.core.dsn import Dsn, Host, Secret
from ragline.db.pool import Pool
from ragline.errors import DatabaseUnreachable, ModelError, SchemaMismatch
from ragline.http import inputs
from ragline.http.ask import AskBody
from ragline.http.collections import CollectionBody
from ragline.http.documents import DocumentsBody
from ragline.http.guard import has_key, is_loopback
from ragline.models.embed import Embedder
from ragline.models.embed_fake import FakeEmbedder
from ragline.watch import health as watch
from ragline.watch.health import Check, Health


def why_not(type_: Any, value: object) -> str:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(type_).validate_python(value)
    return refused.value.errors()[0]["msg"]


def accepted(type_: Any, value: object) -> Any:
    return TypeAdapter(type_).validate_python(value)


# Texts and numbers


def test_a_nul_and_half_a_character_are_refused_with_a_sentence() -> None:
    assert "NUL" in why_not(inputs.Text, "a\0")
    assert "surrogate) at 1" in why_not(inputs.Text, "a\ud800")


@pytest.mark.parametrize("text", ["", "\r\n", "\U0010ffff", "e\u0301", "\ufeff", "\x7f"])
def test_every_other_text_is_taken_as_it_is(text: str) -> None:
    assert accepted(inputs.Text, text) == text


@pytest.mark.parametrize("blank", [" ", "\n\t", "\u2003"])
def test_a_question_must_say_something(blank: str) -> None:
    assert "empty" in why_not(inputs.Question, blank)


@pytest.mark.parametrize(("given", "taken"), [(1, 1), (10.0, 10), (1000, 1000)])
def test_a_whole_number_may_be_written_with_a_zero_behind_the_point(
    given: float, taken: int
) -> None:
    assert accepted(inputs.Hits, given) == taken


@pytest.mark.parametrize("given", [0, 1001, 2**63, 1.5, float("nan"), float("inf"), "5", True])
def test_what_is_no_number_of_hits_is_refused(given: object) -> None:
    why_not(inputs.Hits, given)


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "0", "a" * 100])
def test_plain_names_may_be_given_to_new_collections(name: str) -> None:
    assert CollectionBody(name=name).name == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a\n", "ü", "a" * 101, "a/b", "٣"])
def test_names_that_a_database_might_refuse_are_refused_first(name: str) -> None:
    why_not(inputs.NewCollectionName, name)


def test_one_collection_may_be_named_without_a_list() -> None:
    body: Any = {"question": "a", "collection": "kb"}

    assert AskBody(**body).collection == ["kb"]


def test_a_source_is_measured_in_bytes_as_its_index_does() -> None:
    assert accepted(inputs.Source, "a" * 2000)
    assert "2000 bytes" in why_not(inputs.Source, "ü" * 1001)


# Metadata


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"a\0": 1}, "NUL"),
        ({"a": [{"b": "\0"}]}, "NUL"),
        ({"a": {"\udc00": 1}}, "surrogate"),
        ({"a": [[float("nan")]]}, "not finite"),
        ({"a": -float("inf")}, "not finite"),
        ({"a": "a" * 65_536}, "65536 bytes"),
    ],
    ids=repr,
)
def test_metadata_that_cannot_be_stored_is_refused(metadata: Any, reason: str) -> None:
    assert reason in why_not(inputs.Metadata, metadata)


def test_metadata_may_be_nested_but_not_without_end() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for level in range(levels):
            value = [value] if level % 2 else {"a": value}
        return {"a": value}

    assert accepted(inputs.Metadata, nested(15))
    assert "16 deep" in why_not(inputs.Metadata, nested(16))
    assert "16 deep" in why_not(inputs.Metadata, nested(500))


def test_a_source_given_twice_is_named() -> None:
    item = {"source": "a {b}", "text": "A text."}

    said = why_not(DocumentsBody, {"collection": "kb", "documents": [item, item]})

    assert said == "source 'a {b}' is given 2 times; give it once"


# Who may ask


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.0.9", "::1", "[::1]"])
def test_loopback_is_this_machine_only(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example", "127.1"],  # noqa: S104
)
def test_any_other_host_can_be_reached_by_others(host: str) -> None:
    assert not is_loopback(host)


def test_only_the_whole_key_opens() -> None:
    key = Secret("open sesame".replace(" ", "-"))

    def opens(said: str) -> bool:
        return has_key(Headers({"authorization": said}), key)

    assert opens("Bearer open-sesame")
    assert opens("bearer open-sesame ")
    assert not any(map(opens, ["", "Bearer", "Bearer open", "open-sesame", "Basic open-sesame"]))


# Health


def check(status: watch.Status) -> Check:
    return Check(id="a", status=status, detail="because", fix="do this")


@pytest.mark.parametrize(
    ("checks", "worst"),
    [([], "pass"), (["pass"], "pass"), (["pass", "warn"], "warn"), (["fail", "warn"], "fail")],
)
def test_health_is_the_worst_of_its_checks(checks: list[watch.Status], worst: str) -> None:
    assert watch.health(map(check, checks)).status == worst


def test_without_details_only_names_and_statuses_are_left() -> None:
    bare = Check(id="a", status="warn", detail="")

    assert watch.health([check("warn")]).without_details() == Health(status="warn", checks=(bare,))


@pytest.mark.parametrize(
    ("error", "id_"),
    [
        (DatabaseUnreachable("gone"), "database"),
        (SchemaMismatch("old"), "schema"),
        (ModelError("damaged"), "model"),
    ],
)
def test_an_error_fails_the_check_that_it_belongs_to(error: DatabaseUnreachable, id_: str) -> None:
    assert watch.failure(error) == Check(id=id_, status="fail", detail=str(error))


async def test_health_of_a_model() -> None:
    async def none() -> Embedder | None:
        return None

    async def fake() -> Embedder | None:
        return FakeEmbedder()

    async def damaged() -> Embedder | None:
        raise ModelError("tokenizer.json is cut short")

    assert (await watch.embedding(fake)).status == "pass"
    assert (await watch.embedding(none)).detail == "no model: search is lexical only"
    assert (await watch.embedding(damaged)).status == "fail"


async def test_without_a_database_nothing_else_of_it_is_checked() -> None:
    async def unreachable() -> Pool:
        raise DatabaseUnreachable("no PostgreSQL answers")

    (only,) = await watch.database(unreachable)

    assert (only.id, only.status, only.detail) == ("database", "fail", "no PostgreSQL answers")


async def test_a_database_that_does_not_answer_in_time_fails() -> None:
    async def never() -> Pool:
        await asyncio.Event().wait()
        raise AssertionError

    (only,) = await watch.database(never, patience_s=0.01)

    assert (only.status, only.detail) == ("fail", "no answer within 0.01 s")


class Connections:
    """What a pool of four knows of itself when all of them are lent."""

    def get_size(self) -> int:
        return 4

    def get_idle_size(self) -> int:
        return 0


def test_a_full_pool_and_a_missing_role_are_warnings_with_what_to_do() -> None:
    pool = Pool(
        workload="serve",
        dsn=Dsn(hosts=(Host(host="h", port=1),), database="d", user="u"),
        size=4,
        timeout_s=1,
        why_not_isolated="role ragline_serve cannot log in",
        _pool=Connections(),  # type: ignore[arg-type]
    )

    isolation, usage = watch._isolation(pool), watch._pool(pool)

    assert (isolation.status, usage.status) == ("warn", "warn")
    assert "not isolated: role ragline_serve" in isolation.detail
    assert "migrate apply" in (isolation.fix or "")
    assert usage.detail == "serve: 4 busy of 4 open, at most 4"
