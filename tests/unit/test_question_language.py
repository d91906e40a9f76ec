"""Which language a question is in: sure of other languages, never wrong about English."""

# ruff: noqa: RUF001 -- letters that look like others are what this is about

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import languages, lexical
from ragline.core.languages import foreign, question_language
from ragline.core.small_words import SMALL_WORDS

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "questions.jsonl"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)

QUESTIONS = {
    "vi": [
        "Nhà thầu phải nộp hồ sơ khi nào?",
        "bảo hành",
        "nha thau phai nop ho so khi nao",
        "thầu phụ là ai",
    ],
    "ko": ["계약 기간은 얼마입니까?", "PostgreSQL 서버를 백업하는 방법", "집 계약"],
    "ja": ["契約期間はどのくらいですか", "データベースの設定", "東京都の人口"],
    "zh": ["合同期限是多久", "怎样备份数据库"],
    "th": ["สัญญามีอายุกี่ปี"],
    "hi": ["अनुबंध की अवधि क्या है?"],
    "ta": ["ஒப்பந்த காலம் என்ன?"],
    "ar": ["ما هي مدة العقد؟"],
    "ru": ["Какой срок договора?", "резервная копия PostgreSQL"],
    "el": ["Ποια είναι η διάρκεια της σύμβασης;"],
    "he": ["מה תקופת החוזה?"],
    "de": ["Wie setze ich mein Passwort zurück?", "welche Unterlagen werden benötigt"],
    "fr": ["Quel est le délai de livraison ?", "qui est responsable du contrat"],
    "es": ["¿Cuál es el plazo de entrega?", "como puedo cambiar la direccion de envio"],
    "it": ["Chi è responsabile del contratto?"],
    "pt": ["Quem é responsável pelo contrato?"],
    "nl": ["wie is verantwoordelijk voor het contract"],
    "tr": ["sunucu neden başlamıyor"],
    "id": ["siapa yang bertanggung jawab atas kontrak"],
}


@pytest.mark.parametrize(
    ("language", "text"), [(code, text) for code, texts in QUESTIONS.items() for text in texts]
)
def test_a_question_clearly_in_a_language_is_known_to_be(language: str, text: str) -> None:
    for form in ("NFC", "NFD"):
        assert question_language(unicodedata.normalize(form, text), "en") == language
    assert question_language(text) == language
    assert foreign(text, "english", ("en",)) == language
    assert foreign(text, "english", (language,)) is None


@pytest.mark.parametrize(
    "question", [json.loads(line)["question"] for line in DEMO.open(encoding="utf-8")]
)
def test_no_question_of_the_demo_is_taken_for_another_language(question: str) -> None:
    assert foreign(question, "english", ("en",)) is None
    assert foreign(question, "simple", ("en",)) is None


@pytest.mark.parametrize(
    "question",
    [
        "Who was Hồ Chí Minh?",
        "What does 東京 mean?",
        "When did the Église de la Madeleine open?",
        "Where is Rio de Janeiro?",
        "Vasco da Gama",
        "São Paulo population",
        "Los Angeles county",
        "What was Beyoncé's first album?",
        "curl -s localhost:8000/search -d '{}'",
        "is die casting or a man made process",
        "α-synuclein and β-amyloid in the brain",
        "naïve Bayes café",
        "der, die, das: what is the difference and when is each of them used?",
        "what is the meaning of je ne sais quoi",
        "El Nino vs La Nina",
        "Don Quixote de la Mancha",
        "Las Vegas El Rancho",
        "Los Angeles de facto mayor",
        "El Salvador de la Paz population",
        "El Paso de Robles wine",
        "Los Lobos La Bamba lyrics",
        "Rio de la Plata",
        "El Al Israel",
        "De La Soul",
        "crème de la crème",
        "Les Misérables author",
        "café au lait recipe",
        "Đà Nẵng hotels",
        "Hồ Chí Minh",
        "Nguyễn Văn A",
        "bánh mì recipe",
        "Real Madrid vs Atlético de Madrid",
        "Tour de France en 2024",
        "Cien años de soledad",
        "x = [a, b, c, d, e]",
    ],
)
def test_names_and_foreign_words_in_an_english_question_change_nothing(question: str) -> None:
    assert foreign(question, "english", ("en",)) is None


@pytest.mark.parametrize("text", ["", " ", "2024", "3.11 -> 3.14", "!!!", "_"])
def test_without_letters_nothing_can_be_told(text: str) -> None:
    assert question_language(text, "en") is None
    assert foreign(text, "english", ("en",)) is None


def test_plain_words_are_taken_for_the_collections_language() -> None:
    assert question_language("PostgreSQL timeout", "de") == "de"
    assert question_language("PostgreSQL timeout") is None
    assert foreign("Vertrag 2024", "german", ("en",)) == "de"
    assert foreign("Vertrag 2024", "simple", ("en",)) is None
    assert question_language("what is the difference between the two", "de") == "en"


def test_a_script_of_several_languages_is_taken_for_the_one_at_hand() -> None:
    assert question_language("коли закінчується договір", "uk") == "uk"
    assert question_language("коли закінчується договір", "en", {"uk", "en"}) == "uk"
    assert question_language("東京", "ja") == "ja"
    assert foreign("東京", "english", ("en", "ja")) is None
    assert foreign("東京", "english", ("en",)) == "zh"


@pytest.mark.parametrize("known", [(), ("mul",), ("multilingual",)])
def test_a_model_of_unknown_or_many_languages_keeps_its_weight(known: tuple[str, ...]) -> None:
    assert foreign("계약 기간은 얼마입니까?", "english", known) is None


def test_regions_of_a_language_are_that_language() -> None:
    assert foreign("Quem é responsável pelo contrato?", "portuguese", ("pt-BR",)) is None
    assert foreign("hvordan bytter jeg passord på serveren", "norwegian", ("nb",)) is None
    assert foreign("合同期限是多久", "simple", ("zh_Hant", "en")) is None


@given(texts, st.sampled_from([None, "en", "de", "ja"]))
def test_any_text_has_a_language_or_none(text: str, hint: str | None) -> None:
    found = question_language(text, hint)

    assert found is None or (len(found) in (2, 3) and found.islower())


@given(texts)
def test_the_form_of_accents_does_not_matter(text: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))

    assert question_language(composed) == question_language(decomposed)


def test_every_language_that_cuts_words_has_a_code() -> None:
    assert set(languages.CODES) == set(lexical.LANGUAGES) - {"simple"}


def test_small_words_are_written_as_folded_text_is() -> None:
    for words in SMALL_WORDS.values():
        assert all(lexical.fold(word) == word and word.isascii() for word in words)
