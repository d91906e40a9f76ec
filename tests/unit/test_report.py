"""Reports in every form: what they must say, and that no text of others gets out of its place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

import rendered
import synthetic_runs as made
from ragline.core import comparing, redline
from ragline.core.cases import Case, Relevant
from ragline.core.policies import Line, Policy
from ragline.core.runs import CaseError, CaseResult, Spent
from ragline.errors import PreconditionFailed, UsageError
from ragline.evals import compare, report, report_html, report_markdown, report_text
from ragline.evals.compare import Comparison
from ragline.evals.markup import element
from ragline.evals.report_content import (
    Bars,
    Content,
    Foreign,
    Interval,
    Panel,
    Passage,
    Side,
    Table,
    columns,
    figure,
    legible,
    signed,
)
from ragline.evals.report_run import RunReport

VOID = {"meta", "line", "circle", "rect", "path"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table></body><iframe src=https://evil.example>",
    "![x](https://evil.example/x.png) [y](javascript:alert(1))",
    "`code` | pipe | <b> @someone #1 https://evil.example www.evil.example",
    "--> ]]> <![CDATA[ </style><style>*{display:none}",
    "{{ 7*7 }} ${x} &lt;script&gt; &#60;",
    "[bold red]markup[/] [link=https://evil.example]x[/link]",
)


class Page(HTMLParser):
    """Reads a page strictly: every element that begins must end, in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return " ".join(self.words)


def results(n: int = 40, *, shift: float = 0.0, word: str = "an answer [1]") -> list[CaseResult]:
    return [
        made.result(
            number,
            {
                "ndcg@10": max(0.0, number / n - shift),
                "lex_f1": 0.5,
                "lex_hallucination": 0.25,
            },
            chunks=(1, 2, 3) if shift == 0.0 else (2, 3, number + 4),
            answer=word,
            ms=10 + number % 7,
        )
        for number in range(n)
    ]


@cache
def comparison(shift: float = 0.5) -> Comparison:
    before, after = results(), results(shift=shift)
    baseline, run = made.run(1, before), made.run(2, after)
    return compare.compared(baseline, run, before, after, cases=made.cases(before))


def single(**more: Any) -> RunReport:
    measured = results()
    return RunReport(
        run=made.run(1, measured, **more), results=tuple(measured), cases=made.cases(measured)
    )


def forms(subject: report.Subject) -> Mapping[str, str]:
    return {
        "terminal": report.terminal(subject, 200),
        "markdown": report.markdown(subject),
        "html": Page(report.html(subject)).text,
    }


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_a_comparison_carries_its_verdict_line_by_line(form: str) -> None:
    shown = _flat(forms(comparison())[form])

    assert "FAIL" in shown
    assert "1 of 3 lines fail: ndcg@10" in shown
    for said in (
        *("ndcg@10", "lex_f1", "lex_hallucination"),
        *("baseline", "difference", "95 % interval", "least visible drop", "verdict"),
        "not lower by more than 0.01",
        "not higher by more than 0.01",  # less hallucination is better
    ):
        assert said in shown, said


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
@pytest.mark.parametrize("subject", ["run", "comparison"])
def test_a_report_says_what_it_was_measured_on(form: str, subject: str) -> None:
    shown = _flat(forms(single() if subject == "run" else comparison())[form])

    for said in (
        *("faq", "a" * 64, "lexical-v1", "epochs docs", "7", "minilm 384 cosine", "0.1.0"),
        *("settings_hash", "2026-03-01T02:00:00+00:00", "seed", "hybrid, k 10"),
    ):
        assert said in shown, said


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_a_run_shows_its_figures_with_n_and_missing(form: str) -> None:
    shown = _flat(forms(single())[form])

    for said in ("ndcg@10", "0.4875", "40", "missing", "higher is better", "lower is better"):
        assert said in shown, said


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_an_unknown_cost_is_unknown_and_never_0(form: str) -> None:
    shown = _flat(forms(single(spent=Spent(calls=3, input_tokens=None, cost_micro_usd=None)))[form])

    assert re.search(r"cost\W+unknown", shown)
    assert re.search(r"input tokens\W+unknown", shown)
    assert re.search(r"model calls\W+3", shown)


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_a_partial_run_is_marked_and_is_no_pass(form: str) -> None:
    shown = _flat(forms(single(state="partial", done=7, failed=2))[form])

    assert "PARTIAL: 7 of 40 cases were measured, 2 of them failed" in shown
    assert "--resume 1" in shown
    assert "PASS" not in shown


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_fixed_contexts_are_marked(form: str) -> None:
    fixed = replace(made.SETTINGS, contexts="fixed")

    assert "FIXED CONTEXTS" in _flat(forms(single(settings=fixed))[form])


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_a_lexical_judge_is_never_called_entailment(form: str) -> None:
    assert "overlap of words, which is not entailment" in _flat(forms(single())[form])


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_errors_are_counted_by_class_and_named_by_case(form: str) -> None:
    error = CaseError(phase="judge", kind="ModelUnavailable", message="the judge is down")
    measured = [*results(), made.result(40, {}, errors=(error,))]
    subject = RunReport(
        run=made.run(1, measured, state="partial", errors={"judge ModelUnavailable": 1}),
        results=tuple(measured),
    )
    shown = _flat(forms(subject)[form])

    assert re.search(r"judge ModelUnavailable\W+1\b", shown)
    assert "c40" in shown
    assert "the judge is down" in shown


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_a_run_that_called_no_model_says_so(form: str) -> None:
    shown = _flat(forms(single(reused=40, spent=Spent()))[form])

    assert "No model was called: 40 cases have the contexts of an earlier run" in shown


@pytest.mark.parametrize("form", ["terminal", "markdown", "html"])
def test_the_same_contexts_are_unchanged_by_construction(form: str) -> None:
    shown = _flat(forms(comparison(shift=0.0))[form])

    assert "PASS" in shown
    assert "Unchanged by construction" in shown


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_the_worst_regressions_stand_side_by_side(form: str) -> None:
    shown = _flat(forms(comparison())[form])

    assert "Worst regressions, side by side" in shown
    for said in ("What does c39 say?", "the gold answer", "an answer", "passage 2", "guide/2.md"):
        assert said in shown, said
    assert "only here" in shown


def test_gold_answers_that_are_as_good_are_shown_and_so_is_that_there_is_none() -> None:
    measured = results(2)
    cases = {
        "c0": Case(id="c0", question="When?", answers=("1066", "in 1066", "the year 1066", "'66")),
        "c1": Case(id="c1", question="Why?", is_answerable=False),
    }
    shown = report.content(
        RunReport(run=made.run(1, measured), results=tuple(measured), cases=cases)
    )

    assert {panel.case_id: panel.gold for panel in shown.panels} == {
        "c0": "1066\nor: in 1066\nor: the year 1066\nand 1 more",
        "c1": "there is none: declining is right",
    }


def test_a_gate_with_floors_shows_intervals_of_values() -> None:
    measured = results()
    run = made.run(1, measured)
    policy = Policy(
        lines=(Line(metric="ndcg@10", at_least=0.9), Line(metric="faithfulness", at_least=0.5))
    )
    verdict = redline.verdict(
        policy,
        compare.figures(run),
        run.judge_id,
        comparing.per_case(measured),
        None,
        is_identical=False,
    )
    subject = RunReport(run=run, results=tuple(measured), verdict=verdict, policy=policy)
    shown = _flat(report.terminal(subject, 140))

    assert "FAIL: 2 of 2 lines fail: ndcg@10, faithfulness" in shown
    assert "not measured" in shown
    assert re.search(r"0\.3\d\d\d to 0\.5\d\d\d", shown)


def test_json_has_every_case_of_every_list_and_plain_numbers() -> None:
    found = comparison()
    written = json.loads(json.dumps(report.as_json(found), allow_nan=False))

    assert written["status"] == "fail"
    assert len(written["regressed"]) == len(found.changes.regressed) > 20
    assert written["regressed"][0]["baseline"]["hits"][0]["chunk_id"] == 1
    assert written["verdict"]["rows"][0]["difference"] == found.verdict.rows[0].difference
    assert written["run"]["spent"]["cost_micro_usd"] is None
    whole = json.loads(json.dumps(report.as_json(single()), allow_nan=False))
    assert len(whole["cases"]) == 40


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_terminal_report_fits_its_width_and_cuts_no_figure(width: int) -> None:
    found = comparison()
    shown = report.terminal(found, width)

    assert max(map(len, shown.split("\n"))) <= width
    assert "\x1b" not in shown
    for row in found.verdict.rows:
        assert figure(row.metric, row.value) in shown
        assert signed(row.metric, row.difference) in shown
        assert row.status in shown


@pytest.mark.parametrize("width", [1, 40, 61, 100])
def test_a_run_fits_a_terminal(width: int) -> None:
    shown = report.terminal(single(), width)

    assert max(map(len, shown.split("\n"))) <= max(width, 40)
    for value in ("0.4875", "0.2500", "900.0 ms", "1,200"):
        assert value in shown


def test_a_brief_report_keeps_every_figure_and_leaves_the_lists_to_the_others() -> None:
    found = comparison()
    whole, brief = report.terminal(found, 100), report.terminal(found, 100, is_brief=True)

    assert len(brief.split("\n")) < len(whole.split("\n"))
    assert len(brief.split("Regressed cases")[1].split("\n\n")[0].split("\n")) == 13
    for row in found.verdict.rows:
        assert figure(row.metric, row.value) in brief
        assert row.status in brief
        is_reasoned = f"- {row.line}" in " ".join(brief.split())
        assert is_reasoned == (row.status != "pass")
    assert "--report FILE.html" in brief
    assert "where the two differ" in brief


def test_a_brief_run_says_what_it_was_measured_on() -> None:
    brief = report.terminal(single(), 100, is_brief=True)

    for fact in ("dataset content", "judge", "collections", "settings_hash"):
        assert fact in brief
    assert "Slowest cases" not in brief


def test_a_terminal_shows_words_in_brackets_as_words() -> None:
    shown = report_text.text(_content("[bold red]x[/] [link=y]z[/link]"), 200)

    rows = [line for line in shown.split("\n") if " | " in line and "[" in line]
    assert len(rows) == 3
    assert all("[bold red]x[/] [link=y]z[/link]" in row for row in rows)


def test_words_as_wide_as_two_letters_fit_as_well() -> None:
    shown = report_text.text(_content("数据库的全文检索" * 12), 60)

    assert max(map(cell_len, shown.split("\n"))) <= 60


def test_a_page_needs_nothing_else() -> None:
    for text in (report.html(comparison()), report.html(single())):
        page = Page(text)

        assert text.startswith("<!doctype html>")
        policy = next(
            value for tag, name, value in page.attributes if tag == "meta" and "none" in str(value)
        )
        assert policy is not None
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert not {"script", "link", "img", "iframe", "object", "a", "form", "base"} & {*page.tags}
        names = {name for _, name, _ in page.attributes}
        assert not {"src", "href", "xlink:href", "style", "srcset"} & names
        assert not {name for name in names if name.startswith("on")}
        assert "@import" not in text
        assert re.findall(r"url\(([^)]*)\)", text) == ["#hatching"]
        assert not re.search(r"https?://", text)


def test_a_page_can_be_heard() -> None:
    text = report.html(comparison())
    page = Page(text)
    heads = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]

    assert page.tags.count("th") == len(heads)
    assert set(heads) == {"col"}
    assert page.tags.count("svg") == page.tags.count("desc") == 2
    assert ("html", "lang", "en") in page.attributes
    assert page.attributes.count(("svg", "role", "img")) == 2
    # Not by colour alone: the plot says each verdict in words, and so does the table.
    assert "ndcg@10: -0.3" in text
    assert ": fail." in text
    assert "✗ fail" in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_of_others_stays_text_everywhere(hostile: str) -> None:
    word = f"{hostile} {'w' * 5_000}"
    before = [replace(one, case_id=f"{one.case_id} {hostile}") for one in results(word=word)]
    after = [
        replace(one, case_id=f"{one.case_id} {hostile}") for one in results(shift=0.5, word=word)
    ]
    cases = {
        one.case_id: Case(
            id=one.case_id,
            question=hostile,
            answer=hostile,
            relevant=(Relevant(document=hostile, passage=hostile),),
        )
        for one in before
    }
    spoilt = {
        "name": hostile,
        "dataset": hostile,
        "provenance": {hostile: {hostile: [hostile]}},
        "warnings": (hostile,),
        "judge_id": hostile,
        "settings": replace(made.SETTINGS, collections=(hostile,), filter=hostile),
    }
    found = compare.compared(
        made.run(1, before, **spoilt), made.run(2, after, **spoilt), before, after, cases=cases
    )
    alone = RunReport(run=made.run(1, before, **spoilt), results=tuple(before), cases=cases)
    plain_tags = {*Page(report.html(comparison())).tags, *Page(report.html(single())).tags}
    for subject in (found, alone):
        page = Page(report.html(subject))

        assert {*page.tags} <= plain_tags
        assert hostile in " ".join(page.words)
        assert rendered.effects(report.markdown(subject)) == []
        assert hostile.split()[0] in report.terminal(subject, 200).replace("\n", "")


def test_characters_that_forge_what_is_seen_are_shown_as_escapes() -> None:
    forged = "safe\u202egnp.exe \x1b[31m \u2066x \U000e0041 \ud800 \x00 \ufeff"

    assert legible(forged) == (
        "safe\\u202egnp.exe \\x1b[31m \\u2066x \\U000e0041 \\ud800 \\x00 \\ufeff"
    )
    page = report_html.page(_content(forged))
    for text in (
        page,
        report_markdown.markdown(_content(forged)),
        report_text.text(_content(forged), 80),
    ):
        assert not set(forged) & set(text) & set("\u202e\x1b\u2066\U000e0041\ud800\x00\ufeff")
        text.encode()
    assert "\\u202egnp.exe" in page


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_out_of_a_page_as_it_went_in(text: str) -> None:
    page = Page(f"<main>{element('p', text, title=text)}</main>")
    shown = legible(text).replace("\r", "\n")

    assert "".join(page.words) == shown
    assert [value for _, _, value in page.attributes] == [shown]


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_leaves_a_report_whole(text: str) -> None:
    usual = Page(report_html.page(_content("x")))
    page = Page(report_html.page(_content(text)))

    assert page.tags == usual.tags
    assert rendered.effects(report_markdown.markdown(_content(text))) == []
    shown = report_markdown.markdown(_content(text))
    assert shown.count("\n") == report_markdown.markdown(_content("x")).count("\n")
    # Columns, not letters: some letters of a text take none, and some two.
    assert max(map(cell_len, report_text.text(_content(text), 60).split("\n"))) <= 60


@given(
    st.lists(
        st.tuples(
            st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1) | st.none()
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=100, deadline=None)
def test_a_plot_stays_within_its_frame(
    rows: list[tuple[float, float, float, float | None]],
) -> None:
    shown = tuple(
        Interval(metric=f"m{place}", low=low, value=value, high=high, margin=margin, status="pass")
        for place, (*three, margin) in enumerate(rows)
        for low, value, high in [sorted(three)]
    )
    page = Page(report_html.page(replace(_content("x"), intervals=shown)))
    places = [
        float(value.removesuffix("%"))
        for _, name, value in page.attributes
        if name in ("x", "x1", "x2", "cx") and value and value.endswith("%")
    ]

    assert len(places) > 4 * len(rows)
    assert all(0 <= place <= 100 for place in places)


def test_a_plot_shows_the_margin_and_verdict_of_the_line_that_compares() -> None:
    lines = (
        Line(metric="ndcg@k", margin=0.02),
        Line(metric="ndcg@k", at_least=0.0),
        Line(metric="self_knowledge", margin=0.03, better="lower"),
    )
    before = [made.result(i, {"ndcg@10": 0.9, "self_knowledge": 0.1 * (i % 2)}) for i in range(40)]
    after = [
        made.result(i, {"ndcg@10": 0.5, "self_knowledge": 0.5}, chunks=(9,)) for i in range(40)
    ]
    runs, policy = (made.run(1, before), made.run(2, after)), Policy(lines=lines)
    content = report.content(compare.compared(*runs, before, after, cases={}, policy=policy))
    shown = {one.metric: one for one in content.intervals}

    assert (shown["ndcg@10"].margin, shown["ndcg@10"].status) == (0.02, "fail")
    assert (shown["self_knowledge"].margin, shown["self_knowledge"].status) == (0.03, "fail")
    assert shown["self_knowledge"].is_lower_better
    assert "self_knowledge ↓" in " ".join(Page(report_html.page(content)).words)


def test_the_better_side_is_always_right_in_a_plot() -> None:
    worse = Interval(
        metric="hallucination",
        low=0.1,
        value=0.2,
        high=0.3,
        margin=0.01,
        status="fail",
        is_lower_better=True,
    )
    page = Page(report_html.page(replace(_content("x"), intervals=(worse,))))
    at = {
        kind: float(str(dict(_of(page, kind))["x1"]).removesuffix("%"))
        for kind in ("zero", "margin", "interval", "mark fail")
    }

    assert at["interval"] < at["mark fail"] < at["margin"] < at["zero"]


def test_deep_facts_share_a_row() -> None:
    server = {"postgresql": "18.6", "settings": {"jit": "off", "work_mem": "4MB"}}
    facts = {"server": server, "spaces": {"docs": None}, "prompt": None, "ids": [1, 2]}
    shown = report.content(single(provenance=facts))
    rows = {row[0]: row[1] for table in shown.tables for row in table.rows}

    assert rows["server postgresql"] == "18.6"
    assert rows["server settings"] == "jit off, work_mem 4MB"
    assert (rows["spaces docs"], rows["prompt"], rows["ids"]) == ("-", "-", "1, 2")


def test_figures_have_their_units() -> None:
    assert figure("ndcg@10", 0.5) == "0.5000"
    assert figure("p95_ms", 1234.56) == "1,234.6 ms"
    assert figure("eval_seconds", 2.0) == "2.0 s"
    assert figure("eval_cost_micro_usd", 1500.0) == "0.001500 USD"
    assert figure("anything", None) == "not measured"


@pytest.mark.parametrize("ending", [".html", ".md", ".json"])
async def test_a_report_is_written_in_the_form_of_its_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"report{ending}"
    await report.save(path, single())

    assert path.read_text(encoding="utf-8") == report.as_text(path, single())


async def test_a_report_of_another_ending_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "report.pdf"

    with pytest.raises(UsageError, match=r"report\.pdf .* ends with \.html, \.md, \.json"):
        await report.save(path, single())
    with pytest.raises(UsageError):
        report.check_path(path)
    assert not path.exists()


async def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="cannot be written: No such file"):
        await report.save(tmp_path / "nowhere" / "report.md", single())


def _of(page: Page, kind: str) -> list[tuple[str, str | None]]:
    """Return the attributes of the first element of a class, `x1` among them."""
    at = next(
        place
        for place, (_, name, value) in enumerate(page.attributes)
        if name == "class" and value == kind
    )
    return [(name, value) for _, name, value in page.attributes[at - 4 : at]]


def _flat(text: str) -> str:
    """Return a report's words as a reader joins them: no escapes, folds or columns."""
    return " ".join(re.sub(r"\\([\W_])", r"\1", text).split())


def _content(text: str) -> Content:
    """Return a report that has a text in every place."""
    cell = Foreign(text)
    return Content(
        title=text,
        status="fail",
        summary=text,
        marks=(text, cell),
        tables=(
            Table(
                key="first",
                title=text,
                columns=columns("case | metric | #n | verdict | >reason"),
                rows=((text, cell, text, "pass", cell), (cell, text, "1", "fail", text)),
                note=text,
            ),
            Table(key="phases", title="t", columns=columns("phase | #s"), rows=((text, "1"),)),
        ),
        bars=(Bars(phase=text, ms=(1.0, None)),),
        bar_names=("baseline", "run"),
        intervals=(
            Interval(metric=text, low=-0.1, value=0.0, high=0.1, margin=0.01, status="pass"),
        ),
        panels=(
            Panel(
                case_id=text,
                what=text,
                question=text or "q",
                gold=text or "g",
                relevant=(text,),
                sides=(
                    Side(
                        name=text,
                        answer=text,
                        passages=(Passage(source=text, text=text, is_shared=False),),
                        metrics=((text, text),),
                    ),
                ),
            ),
        ),
        panels_title=text,
        panels_after="first",
    )
