"""Documents in many languages in one collection: each question finds its own, by words alone too."""

# ruff: noqa: RUF001 -- letters that look like others are what this is about

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_model
from command import Command, place
from conftest import opened
from ragline.core.dsn import Dsn
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import ingest
from ragline.rag.answer import answer_question
from ragline.rag.app import App
from ragline.rag.search import query, search_collections

# Texts of our own. Of each language some about the same things in other words, so that only the
# right words find the right text.
TEXTS = {
    "vi-contractor": "Nhà thầu phải nộp hồ sơ dự thầu trước ngày mười lăm và chịu mọi chi phí.",
    "vi-warranty": "Thời gian bảo hành của máy bơm là hai mươi bốn tháng kể từ ngày bàn giao.",
    "vi-road": "Đường nối hai huyện sẽ được mở rộng vào mùa khô sang năm.",
    "vi-school": "Nhà trường mời phụ huynh đến dự buổi họp cuối năm học.",
    "ko-contract": "계약 기간은 삼 년이며 만료 석 달 전에 연장할 수 있습니다.",
    "ko-backup": "데이터베이스를 매일 밤 백업하고 사본은 다른 건물에 보관한다.",
    "ko-house": "집값이 작년보다 올랐지만 전세는 그대로였다.",
    "ko-weather": "내일은 전국에 비가 오고 기온이 크게 떨어지겠습니다.",
    "ja-contract": "契約期間は三年間で、満了の三か月前までに更新できます。",
    "ja-backup": "データベースは毎晩バックアップされ、写しは別の建物に保管されます。",
    "ja-cat": "猫の飼い方について、えさと水は毎日取り替えてください。",
    "ja-train": "終電の時刻は駅の掲示板で確かめてください。",
    "zh-contract": "合同期限为三年,到期前三个月可以续签。",
    "zh-backup": "数据库每天夜里备份,副本保存在另一栋大楼里。",
    "zh-tea": "老人每天早上喝茶看报纸,然后去公园散步。",
    "zh-train": "末班车的时间请看车站的公告牌。",
    "th-contract": "สัญญามีอายุสามปีและต่ออายุได้ก่อนหมดกำหนดสามเดือน",
    "th-water": "ควรดื่มน้ำสะอาดอย่างน้อยวันละแปดแก้ว",
    "th-train": "รถไฟเที่ยวสุดท้ายออกจากสถานีตอนเที่ยงคืน",
    "hi-contract": "अनुबंध की अवधि तीन वर्ष है और इसे बढ़ाया जा सकता है।",
    "hi-water": "हर दिन साफ पानी के आठ गिलास पीने चाहिए।",
    "hi-kite": "बच्चे छत पर पतंग उड़ा रहे हैं।",
    "ta-rain": "நாளை மாநிலம் முழுவதும் கனமழை பெய்யும்.",
    "ta-school": "பள்ளி ஆண்டு விழா அடுத்த மாதம் நடைபெறும்.",
    "ar-contract": "مُدَّةُ العَقْدِ ثلاثُ سنواتٍ ويجوز تجديده قبل انتهائه.",
    "ar-library": "تفتح المكتبة أبوابها في التاسعة صباحا.",
    "ru-contract": "Договор заключается на три года и может быть продлён.",
    "ru-tea": "Горячий чай помогает согреться после долгой прогулки.",
    "de-cancel": "Die Kündigungsfrist beträgt drei Monate zum Ende des Quartals.",
    "de-street": "Die Straße zwischen Köln und Düren wird im Sommer gesperrt.",
    "tr-warm": "IĞDIR'da kışlar ılık geçer, yazlar ise sıcaktır.",
    "en-contract": "The contract runs for three years and may be renewed.",
    "en-backup": "The database is backed up every night.",
}
QUESTIONS = [
    ("nha thau", "vi-contractor"),
    ("nhà thầu", "vi-contractor"),
    ("NHÀ THẦU", "vi-contractor"),
    ("thoi gian bao hanh may bom la bao lau", "vi-warranty"),
    ("duong noi hai huyen", "vi-road"),
    ("계약은 언제 만료되나요?", "ko-contract"),
    ("백업", "ko-backup"),
    ("데이터베이스 사본", "ko-backup"),
    ("집", "ko-house"),
    ("契約期間はどのくらいですか", "ja-contract"),
    ("ﾃﾞｰﾀﾍﾞｰｽ ﾊﾞｯｸｱｯﾌﾟ", "ja-backup"),
    ("猫", "ja-cat"),
    ("終電", "ja-train"),
    ("合同期限是多久", "zh-contract"),
    ("怎样备份数据库", "zh-backup"),
    ("茶", "zh-tea"),
    ("อายุสัญญา", "th-contract"),
    ("ดื่มน้ำ", "th-water"),
    ("रोज़ कितना पानी पीना चाहिए", "hi-water"),
    ("अनुबंध की अवधि", "hi-contract"),
    ("கனமழை", "ta-rain"),
    ("ما هي مدة العقد", "ar-contract"),
    ("договор продлен", "ru-contract"),
    ("kundigungsfrist", "de-cancel"),
    ("KÖLN STRASSE", "de-street"),
    ("ığdır", "tr-warm"),
    ("Iğdır", "tr-warm"),
    ("renew the contract", "en-contract"),
]


class EnglishOnly(FakeEmbedder):
    """A model that says which language it knows, as the default model does."""

    def __init__(self, *known: str) -> None:
        super().__init__()
        self.facts = replace(self.facts, languages=known)


async def filled(app: App) -> App:
    texts = [ingest.Text(source=name, text=text) for name, text in TEXTS.items()]
    report = await ingest.ingest_texts(app, texts, "kb")
    assert report.added == len(TEXTS)
    return app


@pytest.fixture
async def by_words(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    async with opened(own_dsn, tmp_path, None) as app:
        yield await filled(app)


async def test_each_question_finds_its_document_by_words_alone(by_words: App) -> None:
    wrong = {}
    for question, name in QUESTIONS:
        for form in ("NFC", "NFD"):
            asked = unicodedata.normalize(form, question)
            found = await search_collections(by_words, query(asked, "kb", method="lexical"))
            if not found.hits or found.hits[0].source != name:
                wrong[asked] = [hit.source for hit in found.hits]

    assert not wrong


async def test_words_that_are_nowhere_find_nothing(by_words: App) -> None:
    for question in ("犬", "강아지", "สุนัข", "कुत्ता", "собака", "chó sói"):
        found = await search_collections(by_words, query(question, "kb", method="lexical"))
        assert found.hits == ()


async def test_a_model_that_does_not_know_the_language_has_no_say(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, EnglishOnly("en")) as app:
        await filled(app)
        for question, name in (("계약 기간은?", "ko-contract"), ("終電はいつ", "ja-train")):
            found = await search_collections(app, query(question, "kb"))

            assert found.hits[0].source == name
            assert [used.method for used in found.used] == ["lexical"]
            assert all(hit.vector_rank is None for hit in found.hits)
            (warning,) = found.warnings
            assert "was searched by words alone: the question is in" in warning
            assert "the model fake-64 knows en" in warning

        asked_all_the_same = await search_collections(
            app, query("終電はいつ", "kb", method="vector")
        )
        assert [used.method for used in asked_all_the_same.used] == ["vector"]
        assert not asked_all_the_same.warnings

        english = await search_collections(app, query("When is the contract renewed?", "kb"))
        assert [used.method for used in english.used] == ["hybrid"]
        assert not english.warnings


async def test_an_answer_in_a_language_the_model_does_not_know_goes_by_words(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, EnglishOnly("en")) as app:
        await filled(app)
        for question, name in (
            ("데이터베이스 백업 사본", "ko-backup"),
            ("nhà thầu nộp hồ sơ", "vi-contractor"),
        ):
            answer = await answer_question(app, query(question, "kb"))

            assert answer.found
            assert answer.citations[0].source == name
            assert TEXTS[name].startswith(answer.citations[0].text)


@pytest.mark.parametrize("known", [(), ("en", "ja"), ("mul",)])
async def test_a_model_that_knows_it_or_does_not_say_keeps_its_weight(
    own_dsn: Dsn, tmp_path: Path, known: tuple[str, ...]
) -> None:
    async with opened(own_dsn, tmp_path, EnglishOnly(*known)) as app:
        await filled(app)
        found = await search_collections(app, query("終電はいつですか", "kb"))

        assert [used.method for used in found.used] == ["hybrid"]
        assert not found.warnings


async def test_only_the_collections_whose_model_does_not_know_it_go_by_words(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, EnglishOnly("en")) as app:
        await filled(app)
        await ingest.ingest_texts(
            app, [ingest.Text(source="other", text="終電は零時です。")], "unknown"
        )
        async with (await app.pool("admin")).connection() as connection:
            await connection.execute(
                "update embedding_space set languages = '{}' where collection_id = "
                "(select id from collection where name = 'unknown')"
            )
        app.known.clear()
        found = await search_collections(app, query("終電はいつ", ["kb", "unknown"]))

        assert {u.collection: u.method for u in found.used} == {
            "kb": "lexical",
            "unknown": "hybrid",
        }
        assert {hit.collection for hit in found.hits[:2]} == {"kb", "unknown"}
        assert len(found.warnings) == 1


@pytest.fixture(scope="module")
def ragline() -> Iterator[Command]:
    """The command with the texts as files, without a model."""
    with place() as command:
        folder = command.folder / "texts"
        folder.mkdir()
        for name, text in TEXTS.items():
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        command.json("ingest", folder, "-c", "kb")
        yield command


@pytest.mark.parametrize(
    ("question", "name"), [QUESTIONS[0], QUESTIONS[6], QUESTIONS[12], QUESTIONS[15]]
)
def test_the_command_finds_it(ragline: Command, question: str, name: str) -> None:
    found = ragline.json("search", question, "-c", "kb")

    assert Path(found["hits"][0]["source"]).stem == name


def test_the_command_says_why_vectors_had_no_say(ragline: Command, tmp_path: Path) -> None:
    model = tiny_model.make(tmp_path / "model")
    (model / "ragline-model.json").write_text('{"model_id": "tiny", "languages": ["en"]}')
    with_model = ragline.with_(RAGLINE_MODEL_DIR=str(model))
    with_model.json("ingest", ragline.folder / "texts", "-c", "kb")
    done = with_model.run("search", "nhà thầu là ai", "-c", "kb")

    assert done.returncode == 0
    assert "vi-contractor" in done.stdout.split("\n")[0]
    assert "searched by words alone: the question is in 'vi'" in done.stderr
