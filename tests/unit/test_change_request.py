"""Changes as people write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import change_request
from ragline.core.change import Part, PlannedPart, Step, joined, plan
from ragline.errors import UsageError


@pytest.mark.parametrize(
    ("kind", "words", "parts"),
    [
        (
            "setting",
            ["work_mem=32MB", "shared_preload_libraries=vector,pg_stat_statements", "jit=none"],
            [
                ("work_mem", "32MB"),
                ("shared_preload_libraries", "vector,pg_stat_statements"),
                ("jit", None),
            ],
        ),
        ("setting", ["search_path=a=b"], [("search_path", "a=b")]),
        (
            "role",
            ["eval_app", "work_mem=16MB", "connection_limit=5"],
            [("eval_app.work_mem", "16MB"), ("eval_app.connection_limit", 5)],
        ),
        ("index", ["docs", "m=24", "storage=halfvec"], [("docs", {"m": 24, "storage": "halfvec"})]),
        ("index", ["docs", "none"], [("docs", None)]),
        (
            "search",
            ["docs", "vector_weight=0.5", "k=none"],
            [("docs", {"vector_weight": 0.5, "k": None})],
        ),
        ("space", ["docs", "model=/a folder/x"], [("docs", {"model": "/a folder/x"})]),
        (
            "search",
            ["docs", "k=true", "ef_search=NaN"],
            [("docs", {"k": "true", "ef_search": "NaN"})],
        ),
    ],
)
def test_words_of_a_command_line_become_parts(
    kind: str, words: list[str], parts: list[tuple[str, object]]
) -> None:
    found = change_request.parts(kind, words)
    assert [(part.kind, part.target, part.want) for part in found] == [
        (kind, *part) for part in parts
    ]


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("setting", [], "say what it should be"),
        ("setting", ["work_mem"], "not NAME=VALUE"),
        ("setting", ["=3"], "not NAME=VALUE"),
        ("setting", ["jit=on", "jit=off"], "given twice"),
        ("role", ["work_mem=3"], "say what to change first"),
        ("index", [], "say what to change first"),
        ("index", ["docs"], "say what it should be"),
        ("search", ["docs", "none", "k=3"], "not NAME=VALUE"),
    ],
)
def test_words_that_say_nothing_are_refused_with_an_example(
    kind: str, words: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        change_request.parts(kind, words)


def test_file_names_several_parts() -> None:
    text = """
        [[part]]
        kind = "setting"
        target = "shared_preload_libraries"
        want = ["vector", "auto_explain"]
        [[part]]
        kind = "index"
        target = "docs"
    """
    assert change_request.from_toml(text, "x.toml") == (
        Part(kind="setting", target="shared_preload_libraries", want=["vector", "auto_explain"]),
        Part(kind="index", target="docs", want=None),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"\[\[part\]\]"),
        ("[[part]]\nkind = 'x'", "needs kind and target"),
        ("[[part]]\nkind = 'x'\ntarget = 'y'\nwont = 1", "needs kind and target"),
        ("[[part]]\nkind = 3\ntarget = 'y'", "must be a text"),
        ("[[part]]\nkind = 'x'\ntarget = ''", "must be a text"),
        ("[[part]]\nkind = 'x'\ntarget = 'y'\nwant = 2026-01-01", "JSON does not know"),
        ("[[part]]\nkind = 'x'\ntarget = 'y'\nwant = nan", "JSON does not know"),
        ("part = 3", r"\[\[part\]\]"),
        ("[part", "not TOML"),
    ],
)
def test_bad_file_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        change_request.from_toml(text, "x.toml")


@given(kind=st.sampled_from(["setting", "role", "index", "x"]), words=st.lists(st.text()))
def test_any_words_are_parts_that_json_knows_or_a_sentence(kind: str, words: list[str]) -> None:
    try:
        found = change_request.parts(kind, words)
    except UsageError:
        return
    for part in found:
        json.dumps(part.want, allow_nan=False)


_ACTIONS = st.sampled_from(["sql", "reload", "restart", "build", "switch"])
_PHASES = st.sampled_from(["prepare", "apply", "adopt"])
_STEPS = st.lists(
    st.builds(
        Step, kind=st.just("k"), target=st.just("t"), phase=_PHASES, action=_ACTIONS, text=st.text()
    )
)


@given(_STEPS)
def test_steps_run_by_phase_and_share_one_reload_or_restart(steps: list[Step]) -> None:
    found = joined(steps)
    phases = [step.phase for step in found]
    assert phases == sorted(phases, key=["prepare", "apply", "adopt"].index)
    for phase in ("prepare", "apply", "adopt"):
        own = [s for s in found if s.phase == phase]
        given_ = [s for s in steps if s.phase == phase]
        shared = [s.action for s in own if s.action in ("reload", "restart")]
        assert len(shared) <= 1
        has = {s.action for s in given_}
        assert ("restart" in shared) == ("restart" in has)
        assert bool(shared) == bool(has & {"reload", "restart"})
        # Each part's own statements keep their order, and come before what makes them known.
        assert [s for s in own if s.action not in ("reload", "restart")] == [
            s for s in given_ if s.action not in ("reload", "restart")
        ]
        assert not shared or own[-1].action in ("reload", "restart")


@given(now=st.text(), want=st.text(), other=st.text())
def test_hash_fits_one_plan_only(now: str, want: str, other: str) -> None:
    def hash_of(now: str, want: str) -> str:
        return plan([PlannedPart(kind="k", target="t", now=now, want=want)], []).hash

    assert hash_of(now, want) == hash_of(now, want)
    assert (hash_of(now, want) == hash_of(other, want)) == (now == other)
