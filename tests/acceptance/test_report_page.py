"""The HTML report in a real browser: it shows, it fits, and it asks nobody for anything."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import synthetic_runs as made
from ragline.core.cases import Case, Relevant
from ragline.core.runs import CaseResult
from ragline.evals import compare, report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Runs if any text of others were markup: the page's title would tell.
HOSTILE = (
    "</title></style></svg><script>document.title='taken over'</script>"
    "<img src=x onerror=\"document.title='taken over'\"> \u202egnp.exe " + "w" * 3_000
)


class Dumped(HTMLParser):
    """What a browser made of a page, as `--dump-dom` writes it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"not run: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison in which everything that others can write is hostile."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    before = results((1, 2, 3), 0.9)
    after = results((2, 5, 6), 0.2)
    cases = {
        one.case_id: Case(
            id=one.case_id,
            question=HOSTILE,
            answer=HOSTILE,
            relevant=(Relevant(document=HOSTILE),),
        )
        for one in before
    }
    runs = [
        made.run(number, side, name=HOSTILE, provenance={HOSTILE: HOSTILE}, warnings=(HOSTILE,))
        for number, side in ((1, before), (2, after))
    ]
    found = compare.compared(runs[0], runs[1], before, after, cases=cases)
    path.write_text(report.html(found), encoding="utf-8")
    return path


def results(chunks: tuple[int, ...], value: float) -> list[CaseResult]:
    return [
        replace(
            made.result(number, {"ndcg@10": value, "lex_hallucination": 1 - value}, chunks=chunks),
            answer=HOSTILE,
            contexts=(HOSTILE,) * len(chunks),
        )
        for number in range(40)
    ]


def test_a_browser_builds_the_page_as_it_was_written(browser: str, page: Path) -> None:
    dumped = Dumped(run(browser, page, "--dump-dom"))

    assert dumped.tags.count("svg") == 2
    assert dumped.tags.count("article") == 10
    # A browser mends what is broken; the same elements mean that nothing was.
    assert dumped.tags == Dumped(page.read_text(encoding="utf-8")).tags
    assert not {"script", "img", "iframe", "a"} & {*dumped.tags}
    words = " ".join(dumped.words)
    assert "taken over" in words
    assert "\\u202egnp.exe" in words
    assert "\u202e" not in words


def test_the_page_fits_a_phone_and_asks_for_nothing(
    browser: str, page: Path, tmp_path: Path
) -> None:
    """The page in a frame as narrow as a phone tells its own width, through a script of ours."""
    probe = tmp_path / "probe.html"
    probe.write_text(
        f"""<!doctype html><iframe id=f src="{page.as_uri()}" style="width:360px;height:700px">
        </iframe><p id=said>not measured</p><script>
        f.onload = () => {{
          const d = f.contentDocument;
          said.textContent = [d.documentElement.scrollWidth <= 360,
            f.contentWindow.performance.getEntriesByType('resource').length,
            d.title.startsWith('run 2'),
            Math.max(...[...d.querySelectorAll('svg.plot')].map(s => s.clientWidth)) <= 360,
          ].join(' ');
        }};
        </script>""",
        encoding="utf-8",
    )
    dumped = run(
        browser, probe, "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom"
    )

    assert '<p id="said">true 0 true true</p>' in dumped


def run(browser: str, page: Path, *options: str) -> str:
    """Return what a browser without a window prints of a page."""
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={page.parent / 'profile'}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
