"""What a provider says of a failure, before anybody reads it: laws of the scrubbing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.models.calls import may_be_billed, quoted, scrubbed

KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=60)
NOISE = st.text(max_size=40)
GAPS = st.sampled_from(["", " ", "\n", "\t", "\u200b", "\u00ad", "\u2028", " \r\n "])


def seen(text: str) -> str:
    return "".join(character for character in text if "!" <= character <= "~").lower()


@given(KEYS, NOISE, NOISE, st.data())
def test_no_eight_characters_of_a_key_are_left(
    key: str, before: str, after: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(key) - 8))
    end = data.draw(st.integers(start + 8, len(key)))
    part = data.draw(st.sampled_from([key[start:end], key[start:end].upper()]))
    broken = "".join(character + data.draw(GAPS) for character in part)

    left = seen(scrubbed(f"{before}{broken}{after}", key).replace("***", "\u0000"))

    # What stood around a part may meet it only where the part was.
    assert part.lower() not in left


@given(KEYS, NOISE)
def test_what_has_nothing_of_a_key_stays_as_it_is(key: str, text: str) -> None:
    has_part = any(key[at : at + 8].lower() in seen(text) for at in range(len(key) - 7))

    if not has_part and "@" not in text:
        assert scrubbed(text, key) == text


@given(NOISE, KEYS)
def test_scrubbing_twice_changes_nothing(text: str, key: str) -> None:
    once = scrubbed(quoted(text + key), key)

    assert key not in once
    assert scrubbed(once) == once


@pytest.mark.parametrize(
    "url", ["http://ann:pass@proxy:3128", "socks5://ann:pa/ss@p@[::1]:1", "ann:pass@proxy"]
)
def test_no_password_of_a_url_is_left(url: str) -> None:
    said = scrubbed(f'Failed to connect to proxy URL: "{url}" (see there)')

    assert "ann" not in said
    assert "ss" not in said
    assert said.endswith('" (see there)')


def test_a_key_that_is_no_secret_spoils_no_message() -> None:
    assert scrubbed("the text is too long; next", "x") == "the text is too long; next"


@given(st.integers(200, 599))
def test_only_a_refusal_is_known_to_cost_nothing(status: int) -> None:
    is_refusal = 300 <= status < 500 and status != 408

    assert may_be_billed(status) != is_refusal
