"""Overlap of words: what holds for any text, in every language, and what it must not be taken for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growth import is_linear
from ragline.core.lexical import LANGUAGES
from ragline.core.overlap import THRESHOLD, containment, scores, supported
from ragline.errors import UsageError

words = st.lists(
    st.sampled_from(
        "invoice invoices paid 30 2024 the is not l'eau it's Köln 계약 契約 . 1. [2]".split()
    )
)
texts = words.map(" ".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
languages = st.sampled_from(LANGUAGES)


# -- laws -------------------------------------------------------------------------------------------


@given(texts, texts, languages)
def test_all_lie_between_nothing_and_all(one: str, other: str, language: str) -> None:
    found = scores(one, other, language)

    assert list(found) == ["lex_precision", "lex_recall", "lex_f1"]
    assert all(0 <= value <= 1 for value in found.values())
    assert min(found.values()) <= found["lex_f1"] <= max(found.values()) + 1e-12
    assert len({value == 0 for value in found.values()}) == 1
    assert 0 <= containment(one, other, language) <= 1


@given(texts, texts, languages)
def test_precision_one_way_is_recall_the_other(one: str, other: str, language: str) -> None:
    there, back = scores(one, other, language), scores(other, one, language)

    assert there["lex_precision"] == back["lex_recall"]
    assert there["lex_f1"] == pytest.approx(back["lex_f1"])


@given(texts, languages)
def test_a_text_has_all_words_of_itself(text: str, language: str) -> None:
    assert set(scores(text, text, language).values()) in ({1.0}, {0.0})
    # A sentence without telling words has none that could be borne out.
    assert containment(text, text, language) in (1.0, 0.0)


@given(words, st.randoms())
def test_the_order_of_words_does_not_matter(some: list[str], shuffler: random.Random) -> None:
    plain = [word for word in some if word not in (".", "1.")]
    mixed = [*plain]
    shuffler.shuffle(mixed)
    gold = "Invoices are paid in 30 days."

    assert scores(" ".join(mixed), gold) == scores(" ".join(plain), gold)
    assert containment(tuple(mixed), gold) == containment(tuple(plain), gold)


@given(texts, texts, texts, languages)
def test_a_longer_passage_never_holds_less(
    claim: str, passage: str, more: str, language: str
) -> None:
    longer = f"{passage}\n\n{more}"

    assert containment(claim, longer, language) >= containment(claim, passage, language)
    assert supported(claim, longer, language) or not supported(claim, passage, language)


@given(texts, texts, languages)
def test_support_is_containment_without_a_number_of_its_own(
    claim: str, passage: str, language: str
) -> None:
    if supported(claim, passage, language):
        assert containment(claim, passage, language) >= THRESHOLD
        assert not supported(f"{claim} 987654321", passage, language)


@given(st.integers(0, 12), st.integers(1, 12))
def test_a_claim_is_contained_as_far_as_its_words_stand_there(known: int, other: int) -> None:
    claim = " ".join([f"known{'abcdefghijkl'[n]}" for n in range(known)] + [
        f"other{'abcdefghijkl'[n]}" for n in range(other)
    ])  # fmt: skip
    passage = " ".join(f"known{letter}" for letter in "abcdefghijkl")

    assert containment(claim, passage) == pytest.approx(known / (known + other))


# -- worked out by hand ---------------------------------------------------------------------------


def test_words_count_as_often_as_they_stand_without_stop_words_and_endings() -> None:
    # "invoic invoic deliv" against "invoic deliv supplier supplier".
    found = scores(
        "Invoices, and an invoice, are delivered.", "Invoice: delivering suppliers, a supplier"
    )

    assert found == {
        "lex_precision": pytest.approx(2 / 3),
        "lex_recall": pytest.approx(2 / 4),
        "lex_f1": pytest.approx(4 / 7),
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It's paid.", "it is paid"),
        ("They\u2019ll deliver", "they deliver"),
        ("Paid in 30 days [1][2].", "paid in 30 days"),
        ("1. Paid\n2. Delivered", "paid, delivered"),
        ("- Paid\n* Delivered", "paid, delivered"),
    ],
)
def test_what_states_nothing_does_not_count(one: str, other: str) -> None:
    assert set(scores(one, other).values()) == {1.0}
    assert containment(one, other) == 1


def test_stop_words_count_where_there_is_nothing_else() -> None:
    assert scores("No.", "no") == dict.fromkeys(("lex_precision", "lex_recall", "lex_f1"), 1.0)
    assert scores("No.", "No, the contract ended.")["lex_f1"] == 0
    assert set(scores("", "").values()) == {0.0}


def test_a_long_sentence_says_no_more_than_a_short_one() -> None:
    text = "Invoices arrive. The supplier of the northern warehouse delivers tomorrow morning."

    assert containment(text, "invoices arrive") == 0.5
    assert containment(f"{text} It is not.", "invoices arrive") == 0.5


def test_a_claim_is_one_sentence_whatever_is_in_it() -> None:
    claim = ("Acme Inc.", "Was founded", "In the U.S. Today")

    assert containment(claim, "Acme was founded") == pytest.approx(2 / 6)


def test_a_claim_of_stop_words_alone_is_not_borne_out() -> None:
    assert containment("It is not.", "It is not. It was.") == 0
    assert not supported("It is not.", "It is not. It was.")
    assert not supported("", "")


def test_a_number_that_is_not_there_is_a_veto() -> None:
    passage = "Suppliers are paid 30 days after the invoice arrived, up to 6,650 EUR."

    assert supported("Suppliers are paid 30 days after the invoice", passage)
    assert not supported("Suppliers are paid 45 days after the invoice", passage)
    assert supported(("Suppliers", "are paid up to", "6650 EUR"), passage)
    assert supported(("Suppliers", "are paid up to", "٦٦٥٠ EUR"), passage)
    # Numbers of citations and list items are none of the claim's.
    assert supported("7. Suppliers are paid 30 days after the invoice [4].", passage)
    assert not supported(("Suppliers", "are paid", "7 days after invoice"), passage)


def test_it_is_overlap_and_no_entailment() -> None:
    assert supported("The contract may be cancelled.", "The contract may not be cancelled.")
    assert not supported("The deal was called off.", "The contract was cancelled.")


# -- languages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "claim", "passage", "other"),
    [
        ("german", "Die Rechnungen werden bezahlt", "Eine bezahlte Rechnung", "Die Verträge werden"),
        ("french", "L'eau qu'elle boit est froide", "Boire de l'eau froide", "La maison qu'elle a"),
        ("simple", "nhà thầu phải bồi thường", "Nha thau phai boi thuong", "hợp đồng xây"),
        ("english", "계약 기간은 2년이다", "이 계약의 계약 기간은 2년입니다", "공급업체의 주소"),
        ("english", "契約期間は二年です", "この契約期間は二年とする", "会社の住所"),
        ("russian", "Счета оплачены", "Счет был оплачен", "Договор расторгнут"),
        ("arabic", "العقد ينتهي", "ينتهي العقد", "عنوان الشركة"),
        ("hindi", "अनुबंध समाप्त", "अनुबंध समाप्त हुआ", "कंपनी का पता"),
    ],
)  # fmt: skip
def test_words_of_all_languages_are_compared(
    language: str, claim: str, passage: str, other: str
) -> None:
    assert supported(claim, passage, language)
    assert scores(claim, passage, language)["lex_f1"] >= 0.5
    assert not supported(claim, other, language)
    assert scores(claim, other, language)["lex_f1"] < 0.2


def test_small_words_of_other_languages_say_nothing() -> None:
    assert scores("Das ist die Rechnung", "Das ist der Vertrag", "german")["lex_f1"] == 0
    assert (
        scores("La facture est dans l'offre", "La maison est dans l'eau", "french")["lex_f1"] == 0
    )
    assert scores("This is the invoice", "This is the contract", "porter")["lex_f1"] == 0
    assert containment("Das ist die", "Das ist die", "german") == 0


def test_a_language_that_is_not_known_is_refused() -> None:
    for measure in (scores, containment, supported):
        with pytest.raises(UsageError, match="language 'klingon' is not known"):
            measure("a word", "a word", "klingon")


@pytest.mark.parametrize("part", [" ", "'", "a'", "[1", "1. ", "\n1.", "- ", "n't ", "qu'", "é'"])
def test_long_text_takes_linear_time(part: str) -> None:
    def work(size: int) -> None:
        scores(part * size, "a word")
        containment(part * size, "a word")

    assert is_linear(work, 50_000)
