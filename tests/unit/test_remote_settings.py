"""Which remote models a configuration names, and what it refuses."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline import config
from ragline.core.remote import (
    OPENAI_URL,
    Limits,
    chat_endpoint,
    embedding_endpoint,
    judge_endpoint,
)
from ragline.errors import ConfigError

KEY = "sk-1234567890abcdef"
LOCAL = {
    "RAGLINE_EMBED_PROVIDER": "openai",
    "RAGLINE_EMBED_URL": "http://127.0.0.1:11434/v1",
    "RAGLINE_EMBED_MODEL": "nomic",
}


def refused(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as raised:
        config.load(environ=environ)
    assert KEY not in str(raised.value)
    return str(raised.value)


def test_nothing_is_remote_unless_asked_for() -> None:
    found = config.load(environ={"OPENAI_API_KEY": KEY, "AWS_REGION": "eu-west-1"})

    assert (found.embedding, found.chat, found.judge, found.prices) == (None, None, None, None)


def test_the_judge_has_settings_of_its_own_like_those_of_answers() -> None:
    of_judge = {
        "RAGLINE_JUDGE_PROVIDER": "openai",
        "RAGLINE_JUDGE_URL": "https://judge.example.org/v1",
        "RAGLINE_JUDGE_MODEL": "strict",
        "RAGLINE_JUDGE_KEY": KEY,
        "RAGLINE_JUDGE_RPM": "600",
        "RAGLINE_JUDGE_TPM": "90000",
        "RAGLINE_JUDGE_CONCURRENCY": "8",
        "RAGLINE_JUDGE_RETRIES": "6",
        "RAGLINE_JUDGE_TIMEOUT": "20",
        "RAGLINE_JUDGE_DEADLINE": "60",
    }
    of_chat = {name.replace("JUDGE", "CHAT"): value for name, value in of_judge.items()}

    judge, chat = judge_endpoint(of_judge), chat_endpoint(of_chat)

    assert judge is not None
    assert chat is not None
    assert judge.limits == Limits(
        requests_per_minute=600,
        tokens_per_minute=90_000,
        concurrency=8,
        retries=6,
        timeout_s=20.0,
        deadline_s=60.0,
    )
    assert judge == replace(chat, variables="RAGLINE_JUDGE")
    assert judge_endpoint(of_chat) is None
    found = config.load(environ={**of_judge, "RAGLINE_JUDGE_MAX_TOKENS": "8000"})
    assert (found.judge, found.chat, found.judge_max_tokens) == (judge, None, 8000)
    assert KEY not in repr(found)


def test_what_a_judge_reads_in_the_clear_is_warned_about() -> None:
    environ = {
        "RAGLINE_JUDGE_PROVIDER": "openai",
        "RAGLINE_JUDGE_URL": "http://10.0.0.5/v1",
        "RAGLINE_JUDGE_MODEL": "m",
    }

    (warning,) = config.load(environ=environ).warnings
    assert "RAGLINE_JUDGE_URL is http://10.0.0.5/v1" in warning


def test_every_setting_arrives() -> None:
    found = embedding_endpoint(
        {
            "RAGLINE_EMBED_PROVIDER": "openai",
            "RAGLINE_EMBED_URL": "https://ann.openai.azure.com/openai/deployments/small/",
            "RAGLINE_EMBED_MODEL": "text-embedding-3-small",
            "RAGLINE_EMBED_KEY": KEY,
            "RAGLINE_EMBED_API_VERSION": "2024-10-21",
            "RAGLINE_EMBED_DIMENSION": "512",
            "RAGLINE_EMBED_NORMALISED": "yes",
            "RAGLINE_EMBED_LANGUAGES": "en, vi",
            "RAGLINE_EMBED_QUERY_PREFIX": "query: ",
            "RAGLINE_EMBED_DOCUMENT_PREFIX": "passage: ",
            "RAGLINE_EMBED_MAX_TOKENS": "512",
            "RAGLINE_EMBED_BATCH": "16",
            "RAGLINE_EMBED_RPM": "300",
            "RAGLINE_EMBED_TPM": "100000",
            "RAGLINE_EMBED_CONCURRENCY": "2",
            "RAGLINE_EMBED_RETRIES": "0",
            "RAGLINE_EMBED_TIMEOUT": "3",
            "RAGLINE_EMBED_DEADLINE": "9.5",
        }
    )

    assert found is not None
    endpoint = found.endpoint
    assert endpoint.url == "https://ann.openai.azure.com/openai/deployments/small"
    assert endpoint.is_azure
    assert endpoint.key is not None
    assert endpoint.key.reveal() == KEY
    assert (found.dimension, found.normalised, found.languages) == (512, True, ("en", "vi"))
    assert (found.query_prefix, found.document_prefix) == ("query: ", "passage: ")
    assert (found.max_tokens, found.batch) == (512, 16)
    values = {f.name: getattr(endpoint.limits, f.name) for f in fields(endpoint.limits)}
    assert values == {
        "requests_per_minute": 300,
        "tokens_per_minute": 100_000,
        "concurrency": 2,
        "retries": 0,
        "timeout_s": 3.0,
        "deadline_s": 9.5,
    }


def test_the_key_of_openai_goes_to_openai_alone() -> None:
    environ = {"RAGLINE_CHAT_PROVIDER": "openai", "RAGLINE_CHAT_MODEL": "m", "OPENAI_API_KEY": KEY}

    theirs = chat_endpoint(environ)
    other = chat_endpoint({**environ, "RAGLINE_CHAT_URL": "https://llm.example.org/v1"})

    assert theirs is not None
    assert theirs.url == OPENAI_URL
    assert theirs.key is not None
    assert other is not None
    assert other.key is None


def test_bedrock_takes_its_region_from_its_own_setting_or_from_aws() -> None:
    environ = {"RAGLINE_CHAT_PROVIDER": "bedrock", "RAGLINE_CHAT_MODEL": "m"}

    def region(**more: str) -> str | None:
        found = chat_endpoint({**environ, **more})
        assert found is not None
        return found.region

    assert region() is None
    assert region(AWS_DEFAULT_REGION="eu-west-1") == "eu-west-1"
    assert region(AWS_DEFAULT_REGION="eu-west-1", AWS_REGION="eu-west-2") == "eu-west-2"
    assert region(AWS_REGION="eu-west-2", RAGLINE_CHAT_REGION="us-east-1") == "us-east-1"


def test_keys_are_in_no_text_of_a_configuration() -> None:
    found = config.load(environ={**LOCAL, "RAGLINE_EMBED_KEY": KEY})

    assert KEY not in repr(found)
    assert KEY not in str(found)


def test_programs_that_are_started_get_no_key() -> None:
    names = (
        *("RAGLINE_EMBED_KEY", "RAGLINE_CHAT_KEY", "RAGLINE_JUDGE_KEY", "OPENAI_API_KEY"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"),
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    )
    environ = {**dict.fromkeys(names, KEY), "PATH": "/bin"}

    assert config.child_environment(environ) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"RAGLINE_EMBED_PROVIDER": "opnai"}, "write one of local, openai, bedrock"),
        ({"RAGLINE_EMBED_MODEL": ""}, "RAGLINE_EMBED_MODEL is not set"),
        ({"RAGLINE_EMBED_URL": ""}, "no key for https://api.openai.com/v1"),
        ({"RAGLINE_EMBED_URL": "localhost:11434"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "ftp://host/v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "https:///v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "https://host:port/v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "http://[::1]evil.com/v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "http://[::1]:80.evil.com/v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "http://evil.com[::1]/v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "http://127.0.0.1\\.evil.com/v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": "http://local\nhost/v1"}, "RAGLINE_EMBED_URL (not shown"),
        ({"RAGLINE_EMBED_URL": f"https://ann:{KEY}@host/v1"}, "has a user"),
        ({"RAGLINE_EMBED_URL": f"https://host/v1?key={KEY}"}, "a query"),
        ({"RAGLINE_EMBED_KEY": f"{KEY} {KEY}"}, "RAGLINE_EMBED_KEY (not shown)"),
        ({"RAGLINE_EMBED_KEY": KEY, "RAGLINE_EMBED_URL": "http://10.0.0.5/v1"}, "readable on"),
        ({"RAGLINE_EMBED_REGION": "eu-west-1"}, "which only bedrock uses"),
        ({"RAGLINE_EMBED_DIMENSION": "0"}, "from 1 to 16000"),
        ({"RAGLINE_EMBED_NORMALISED": "perhaps"}, "write yes or no"),
        ({"RAGLINE_EMBED_LANGUAGES": "en,english"}, "'english'; write ISO 639-1"),
        ({"RAGLINE_EMBED_RETRIES": "21"}, "from 0 to 20"),
        ({"RAGLINE_EMBED_RPM": "many"}, "RAGLINE_EMBED_RPM is 'many'"),
        ({"RAGLINE_EMBED_PROVIDER": "bedrock", "RAGLINE_EMBED_KEY": KEY}, "does not use it"),
        ({"RAGLINE_EMBED_PROVIDER": "bedrock", "RAGLINE_EMBED_URL": "http://10.1.1.1"}, "readable"),
        ({"RAGLINE_CHAT_MODEL": "m"}, "RAGLINE_CHAT_PROVIDER is 'none', so it would do nothing"),
        ({"RAGLINE_JUDGE_MODEL": "m"}, "RAGLINE_JUDGE_PROVIDER is 'none', so it would do nothing"),
        ({"RAGLINE_JUDGE_MAX_TOKENS": "500"}, "RAGLINE_JUDGE_PROVIDER is 'none', so it would"),
        ({"RAGLINE_JUDGE_PROVIDER": "openai"}, "RAGLINE_JUDGE_MODEL is not set"),
        (
            {
                "RAGLINE_JUDGE_PROVIDER": "bedrock",
                "RAGLINE_JUDGE_MODEL": "m",
                "RAGLINE_JUDGE_MAX_TOKENS": "49",
            },
            "RAGLINE_JUDGE_MAX_TOKENS is '49'; write a whole number from 50",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(more: dict[str, str], says: str) -> None:
    assert says in refused({**LOCAL, **more})


@pytest.mark.parametrize("model", ["m\x1b[31m", "m\nn", "m\udcff", "m\u202e1"])
def test_a_name_that_cannot_be_shown_is_no_model(model: str) -> None:
    environ = {"RAGLINE_JUDGE_PROVIDER": "openai", "RAGLINE_JUDGE_MODEL": model}

    assert f"RAGLINE_JUDGE_MODEL is {model!r}, which holds" in refused({**environ, **LOCAL})


@pytest.mark.parametrize("name", ["RAGLINE_CHAT_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"])
@pytest.mark.parametrize("region", ["not a region", "eu-west-1.evil.com", "a/b", "-eu", "a" * 64])
def test_what_is_no_region_is_refused_by_the_name_of_its_variable(name: str, region: str) -> None:
    environ = {"RAGLINE_CHAT_PROVIDER": "bedrock", "RAGLINE_CHAT_MODEL": "m", name: region}

    assert f"{name} is {region!r}" in refused(environ)


@pytest.mark.parametrize("region", ["us-gov-west-1", "eusc-de-east-1", "cn-north-1", "us-east-2"])
def test_regions_of_every_partition_are_taken(region: str) -> None:
    found = chat_endpoint(
        {"RAGLINE_CHAT_PROVIDER": "bedrock", "RAGLINE_CHAT_MODEL": "m", "AWS_REGION": region}
    )

    assert found is not None
    assert found.region == region


def test_settings_of_a_model_that_is_not_in_use_are_refused() -> None:
    assert "would do nothing" in refused({"RAGLINE_EMBED_MODEL": "nomic"})


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "[::1]:8080", "127.8.9.1"])
def test_a_key_may_go_to_this_machine_in_the_clear(host: str) -> None:
    environ = {**LOCAL, "RAGLINE_EMBED_URL": f"http://{host}/v1", "RAGLINE_EMBED_KEY": KEY}

    assert config.load(environ=environ).warnings == ()


@pytest.mark.parametrize(
    "host", ["10.0.0.5", "tei", "localhost.example.org", "127.0.0.1.nip.io", "[2001:db8::1]"]
)
def test_texts_in_the_clear_are_warned_about_and_a_key_is_refused(host: str) -> None:
    environ = {**LOCAL, "RAGLINE_EMBED_URL": f"http://{host}/v1"}

    (warning,) = config.load(environ=environ).warnings
    assert "can be read on the way" in warning
    assert "readable on the way" in refused({**environ, "RAGLINE_EMBED_KEY": KEY})


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "PROVIDER",
                "URL",
                "MODEL",
                "KEY",
                "API_VERSION",
                "REGION",
                "DIMENSION",
                "RPM",
                "TIMEOUT",
                "LANGUAGES",
                "BATCH",
            ]
        ),
        st.one_of(
            st.text(
                st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30
            ),
            st.sampled_from(["openai", "bedrock", "https://a/v1", "http://b/v1", "3", KEY]),
        ),
    )
)
def test_any_settings_are_taken_or_refused_by_name(settings: dict[str, str]) -> None:
    environ: dict[str, Any] = {f"RAGLINE_EMBED_{name}": text for name, text in settings.items()}

    try:
        embedding_endpoint(environ)
    except ConfigError as error:
        assert "RAGLINE_EMBED_" in str(error)  # noqa: PT017 - either outcome is right
