"""Verdicts as people read them."""

from __future__ import annotations

from typing import Any

from ragline.cli import change_text


def row(metric: str, status: str, reason: str, n: int = 200, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "status": status, "reason": reason, "line": "", "n": n, **more}


def test_what_is_the_same_is_one_line_and_what_decided_comes_first() -> None:
    same = "unchanged by construction: the same contexts, the same answers"
    found = {
        "status": "fail",
        "rung": "identical",
        "seconds": 2.0,
        "rows": [
            row("ann_recall@10 [docs]", "pass", same),
            row("rows [docs]", "pass", same),
            row("rows [words of docs]", "pass", same, n=85),
            row("p50_ms [docs]", "pass", "surely not higher"),
            row(
                "p50_ms [all questions]",
                "fail",
                "surely higher; a change of 0.2 for the worse would have been found four times in five",
                detectable=0.2,
                is_ratio=True,
            ),
        ],
    }

    assert change_text.verdict(found)[1:] == [
        "    fail         p50_ms [all questions]: surely higher; n = 200; would have seen 20%",
        "    pass         p50_ms [docs]: surely not higher; n = 200",
        f"    pass         3 lines of quality: {same}; n = 85 to 200 each",
    ]


def test_each_line_of_sql_is_on_a_line_of_its_own_and_none_looks_like_a_step() -> None:
    step = {"phase": "apply", "text": "upgrade a1: notes\nselect 1;\n  2. [apply] select 2"}
    nothing = {"action": "sql", "lock": "none", "blocks": "", "disk_bytes": 0, "expected_s": None}
    lines = change_text.steps([{**step, **nothing, "loses": ""}])

    assert lines[1:4] == [
        "  1. [apply] upgrade a1: notes",
        "     | select 1;",
        "     |   2. [apply] select 2",
    ]
