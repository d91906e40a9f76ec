"""Which models answer over the network, where, and how much of them may be used at once."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

from ragline.core import settings
from ragline.core.dsn import Secret
from ragline.core.settings import Environment
from ragline.errors import ConfigError

Provider = Literal["openai", "bedrock"]

OPENAI_URL = "https://api.openai.com/v1"
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
# A chunk has at most 4,096 tokens, so this cuts none; models that take less have to be told.
_MAX_TOKENS = 8191
_BATCH = 32
_CONCURRENCY = 4
_RETRIES = 4
_TIMEOUT_S = 30.0
_DEADLINE_S = 120.0
# A host, or an IPv6 address in brackets, and perhaps a port: nothing before, between or behind.
_NETLOC = re.compile(r"(\[[0-9A-Za-z:.%_~-]+\]|[^\[\]:@\\\s]+)(:[0-9]*)?")
_REGION = re.compile(r"[a-z0-9](-?[a-z0-9])*")
_SWITCHES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of a model may be used; None is as much as it gives."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int = _CONCURRENCY
    retries: int = _RETRIES
    """How often one request is repeated at most."""
    timeout_s: float = _TIMEOUT_S
    """How long the provider may be silent."""
    deadline_s: float = _DEADLINE_S
    """How long one call may take, its retries included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One model at one provider; `url` None is Bedrock's own address in `region`."""

    provider: Provider
    model: str
    url: str | None = None
    key: Secret | None = None
    api_version: str | None = None
    """Azure's, of its older API; the key then travels as `api-key`."""
    region: str | None = None
    limits: Limits = Limits()
    variables: str = "RAGLINE_EMBED"
    """How the environment variables begin that set all this, for messages."""

    @property
    def is_azure(self) -> bool:
        """True when the endpoint takes its key as Azure does."""
        host = urlsplit(self.url or "").hostname or ""
        return self.api_version is not None or host.endswith(_AZURE)

    @property
    def where(self) -> str:
        """What tells prices apart: the host, or Bedrock's region."""
        if self.provider == "bedrock":
            return self.region or "bedrock"
        return urlsplit(self.url or "").hostname or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingEndpoint:
    """A remote embedding model."""

    endpoint: Endpoint
    dimension: int | None = None
    """What is asked for, and checked; None asks for nothing and takes what the first reply has."""
    normalised: bool | None = None
    languages: tuple[str, ...] = ()
    query_prefix: str = ""
    document_prefix: str = ""
    max_tokens: int = _MAX_TOKENS
    batch: int = _BATCH
    """How many texts one request carries at most."""


def embedding_endpoint(env: Environment) -> EmbeddingEndpoint | None:
    """Return the remote embedding model that the variables RAGLINE_EMBED_… name, or None."""
    name = "RAGLINE_EMBED"
    endpoint = _endpoint(env, name, nowhere="local")
    if endpoint is None:
        return None
    return EmbeddingEndpoint(
        endpoint=endpoint,
        dimension=settings.whole_or_none(env, f"{name}_DIMENSION", at_most=16_000),
        normalised=_switch(env, f"{name}_NORMALISED"),
        languages=_languages(env, f"{name}_LANGUAGES"),
        # Not stripped: most prefixes end with a space.
        query_prefix=env.get(f"{name}_QUERY_PREFIX", ""),
        document_prefix=env.get(f"{name}_DOCUMENT_PREFIX", ""),
        max_tokens=settings.whole(
            env, f"{name}_MAX_TOKENS", default=_MAX_TOKENS, at_least=16, at_most=1_000_000
        ),
        batch=settings.whole(env, f"{name}_BATCH", default=_BATCH, at_most=2048),
    )


def chat_endpoint(env: Environment) -> Endpoint | None:
    """Return the chat model that the variables RAGLINE_CHAT_… name, or None."""
    return _endpoint(env, "RAGLINE_CHAT", nowhere="none")


def judge_endpoint(env: Environment) -> Endpoint | None:
    """Return the chat model that the variables RAGLINE_JUDGE_… name to judge answers, or None."""
    return _endpoint(env, "RAGLINE_JUDGE", nowhere="none")


def warnings(*endpoints: Endpoint | None) -> tuple[str, ...]:
    """Return what a user should know about these endpoints."""
    return tuple(
        f"{endpoint.variables}_URL is {endpoint.url}: what is sent there can be read on the way; "
        "use https"
        for endpoint in endpoints
        if endpoint and endpoint.url and is_readable_on_the_way(endpoint.url)
    )


def _endpoint(env: Environment, name: str, *, nowhere: str) -> Endpoint | None:
    provider = settings.choice(
        env, f"{name}_PROVIDER", (nowhere, "openai", "bedrock"), default=nowhere
    )
    if provider == nowhere:
        _refuse_idle(env, name, nowhere)
        return None
    model = settings.text(env, f"{name}_MODEL")
    if model is None:
        raise ConfigError(
            f"{name}_PROVIDER is {provider!r} and {name}_MODEL is not set; name the model, as the "
            "provider spells it"
        )
    # It becomes a part of names that are kept, and shown on terminals.
    if not model.isprintable():
        raise ConfigError(
            f"{name}_MODEL is {model!r}, which holds a character that cannot be shown; write the name "
            "as the provider spells it"
        )
    url = _url(env, f"{name}_URL")
    if provider == "openai":
        url = url or OPENAI_URL
    endpoint = Endpoint(
        provider=cast(Provider, provider),
        model=model,
        url=url,
        key=_key(env, name, url),
        api_version=settings.text(env, f"{name}_API_VERSION"),
        region=_region(env, name, provider),
        limits=_limits(env, name),
        variables=name,
    )
    _check(endpoint)
    return endpoint


def _region(env: Environment, name: str, provider: str) -> str | None:
    """Return the region, which AWS programs know too, as far as the environment says it."""
    sources = [f"{name}_REGION"]
    if provider == "bedrock":
        sources += ["AWS_REGION", "AWS_DEFAULT_REGION"]
    for source in sources:
        if region := settings.text(env, source):
            # A part of a host's name: anything else would lead elsewhere.
            if len(region) > 63 or not _REGION.fullmatch(region):
                raise ConfigError(f"{source} is {region!r}; write a region such as eu-west-1")
            return region
    return None


def _refuse_idle(env: Environment, name: str, nowhere: str) -> None:
    """Raise ConfigError for settings of a model that is not in use: they would do nothing."""
    idle = sorted(
        key
        for key in env
        if key.startswith(f"{name}_") and env[key].strip() and "PROVIDER" not in key
    )
    if idle:
        raise ConfigError(
            f"{idle[0]} is set and {name}_PROVIDER is {nowhere!r}, so it would do nothing; set "
            f"{name}_PROVIDER to openai or bedrock, or unset {idle[0]}"
        )


def _url(env: Environment, name: str) -> str | None:
    said = settings.text(env, name)
    if said is None:
        return None
    try:
        parts = urlsplit(said)
        # urlsplit takes "[::1]example.org" for ::1, and drops line breaks.
        is_whole = _NETLOC.fullmatch(parts.netloc.rpartition("@")[2]) and said.isprintable()
        is_whole = is_whole and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"{name} (not shown, it may hold a secret) is not a URL; write it as https://host/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"{name} (not shown, it may hold a secret) has a user, a query or a fragment; write "
            "https://host/path alone: the key and Azure's api-version have variables of their own"
        )
    return said.rstrip("/")


def _key(env: Environment, name: str, url: str | None) -> Secret | None:
    key = settings.header_secret(env, f"{name}_KEY")
    if key is None and url == OPENAI_URL:
        # Nowhere else: a key of OpenAI's must not travel to another host.
        key = settings.header_secret(env, "OPENAI_API_KEY")
    return key


def _check(endpoint: Endpoint) -> None:
    name = endpoint.variables
    if endpoint.provider == "bedrock" and (endpoint.key or endpoint.api_version):
        odd = "KEY" if endpoint.key else "API_VERSION"
        raise ConfigError(
            f"{name}_{odd} is set and {name}_PROVIDER is 'bedrock', which does not use it; unset "
            "it: credentials come from where every AWS program finds them"
        )
    if endpoint.provider == "openai" and endpoint.region:
        raise ConfigError(f"{name}_REGION is set, which only bedrock uses; unset it")
    if endpoint.url == OPENAI_URL and endpoint.key is None:
        raise ConfigError(
            f"{name}_PROVIDER is 'openai' and there is no key for {OPENAI_URL}; set {name}_KEY or "
            f"OPENAI_API_KEY, or name another endpoint in {name}_URL"
        )
    has_secret = endpoint.key is not None or endpoint.provider == "bedrock"
    if endpoint.url and has_secret and is_readable_on_the_way(endpoint.url):
        raise ConfigError(
            f"{name}_URL is {endpoint.url}, and the key would be readable on the way; use https, "
            "or a tunnel that ends on this machine"
        )


def is_readable_on_the_way(url: str) -> bool:
    """Return whether somebody between here and a URL's host can read what is sent there."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("127.0.0.1.example.org")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _limits(env: Environment, name: str) -> Limits:
    return Limits(
        requests_per_minute=settings.whole_or_none(env, f"{name}_RPM", at_most=1_000_000),
        tokens_per_minute=settings.whole_or_none(env, f"{name}_TPM", at_most=1_000_000_000),
        concurrency=settings.whole(env, f"{name}_CONCURRENCY", default=_CONCURRENCY, at_most=256),
        retries=settings.whole(env, f"{name}_RETRIES", default=_RETRIES, at_least=0, at_most=20),
        timeout_s=settings.seconds(env, f"{name}_TIMEOUT", default=_TIMEOUT_S),
        deadline_s=settings.seconds(env, f"{name}_DEADLINE", default=_DEADLINE_S),
    )


def _languages(env: Environment, name: str) -> tuple[str, ...]:
    said = settings.text(env, name) or ""
    languages = tuple(part.strip() for part in said.split(",") if part.strip())
    for language in languages:
        if not re.fullmatch(r"[a-z]{2}", language):
            raise ConfigError(
                f"{name} holds {language!r}; write ISO 639-1 codes with commas between, such as "
                "en,vi,ko"
            )
    return languages


def _switch(env: Environment, name: str) -> bool | None:
    said = settings.text(env, name)
    if said is None:
        return None
    if said.lower() not in _SWITCHES:
        raise ConfigError(f"{name} is {said!r}; write yes or no, or unset it to have it measured")
    return _SWITCHES[said.lower()]
