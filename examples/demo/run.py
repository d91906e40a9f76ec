"""The demo: real documents, cited answers, a measurement that can fail, and two changes.

The documents are the long descriptions of every distribution installed in this environment, other
people's words that are there anyway, and the project's own docs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ragline
from ragline import config
from ragline.change import loop
from ragline.change.kind import Site
from ragline.cli import change_text, eval_progress, output
from ragline.cli.ingest import progress_bar, summary
from ragline.cli.search import answer_text
from ragline.core.cases import Case, Dataset, Relevant, content_hash
from ragline.core.change import Part
from ragline.core.gate import Asked
from ragline.core.runs import CaseResult, Run
from ragline.errors import DemoFailed, RaglineError, first
from ragline.wiring import open_site

COLLECTION = "demo"
DATASET = "demo"
HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
SUFFIXES = {"text/markdown": ".md", "text/x-rst": ".rst", "text/plain": ".txt"}
SHOWN = ("q037", "q085", "u001")
K = 10
# A chunk that holds the answer with so many characters around it has found the passage.
AROUND = 20

# Set from the first honest measurement; the README states both.
FLOORS = {"recall@10": 0.84, "ndcg@10": 0.59, "cited": 0.48, "answered": 0.85, "declined": 0.54}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured, over `n` answerable and `n_unanswerable` other questions."""

    recall: float
    ndcg: float
    cited: float
    answered: float
    declined: float
    n: int
    n_unanswerable: int
    misses: tuple[str, ...]

    def named(self) -> dict[str, float]:
        return {
            "recall@10": self.recall,
            "ndcg@10": self.ndcg,
            "cited": self.cited,
            "answered": self.answered,
            "declined": self.declined,
        }


def main() -> int:
    """Run the demo; exit 4 when a figure is below its floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--verbose", action="store_true", help="show every question that misses")
    options = parser.parse_args()
    try:
        asyncio.run(_demo(options))
    except BaseExceptionGroup as group:
        return _fail(first(group))
    except RaglineError as error:
        return _fail(error)
    return 0


def _fail(error: BaseException) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code if isinstance(error, RaglineError) else 1


async def _demo(options: argparse.Namespace) -> None:
    data_dir = config.load(data_dir=options.data_dir).data_dir
    async with ragline.connect(data_dir=options.data_dir) as rag:
        folder = data_dir / "demo"
        count = _write_descriptions(folder)
        print(f"{count} descriptions of installed distributions, and the project's docs")
        with _bar() as on_progress:
            report = await rag.ingest(
                [folder, *_own_docs()], collection=COLLECTION, prune=True, on_progress=on_progress
            )
        print(summary(report))
        for rejection in report.rejections:
            print(f"rejected  {rejection.source}  {rejection.reason}  {rejection.message}")
        dataset = Dataset(name=DATASET, cases=tuple(_cases()), format="jsonl")
        await _show(rag, [case for case in dataset.cases if case.id in SHOWN])
        await _keep(rag, dataset)
        run = await _measured(rag)
        figures = await _figures(rag, run, dataset)
    _print(figures, run, verbose=options.verbose)
    if options.json:
        options.json.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    await _changes(data_dir)
    _go_on(run)
    below = [
        f"{name} is {value:.3f}, its floor {FLOORS[name]:.2f}"
        for name, value in figures.named().items()
        if value < FLOORS[name]
    ]
    if below:
        raise DemoFailed(f"the demo measured less than it must: {'; '.join(below)}")


def _write_descriptions(folder: Path) -> int:
    """Write the long descriptions as files, only where they changed; return how many there are."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    wanted = dict(_descriptions())
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return len(wanted)


def _descriptions() -> Iterator[tuple[str, str]]:
    for distribution in metadata.distributions():
        facts = distribution.metadata
        text = facts.get_payload() or facts.get("Description") or ""
        kind = (facts.get("Description-Content-Type") or "text/plain").split(";")[0].strip()
        if text.strip() and facts["Name"] != "ragline":
            yield _normalised(facts["Name"]) + SUFFIXES.get(kind, ".txt"), text


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _own_docs() -> Sequence[Path]:
    return [path for path in (PROJECT / "README.md", PROJECT / "docs") if path.exists()]


def _bar() -> AbstractContextManager[Any]:
    return progress_bar(shown=True)


async def _show(rag: ragline.Rag, cases: Sequence[Case]) -> None:
    for case in cases:
        print(f"\n? {case.question}")
        print(answer_text(await rag.ask(case.question, collection=COLLECTION)))


def _cases() -> Iterator[Case]:
    for line in (HERE / "questions.jsonl").open(encoding="utf-8"):
        entry = json.loads(line)
        is_answerable = entry["document"] is not None
        yield Case(
            id=entry["id"],
            question=entry["question"],
            answer=entry["answer"],
            relevant=(_relevant(entry),) if is_answerable else (),
            is_answerable=is_answerable,
        )


def _relevant(entry: Mapping[str, str]) -> Relevant:
    """Return the place that a chunk must hold: the answer where it stands in its passage."""
    passage, answer = (" ".join(entry[key].split()) for key in ("passage", "answer"))
    at = passage.casefold().index(answer.casefold())
    place = passage[max(0, at - AROUND) : at + len(answer) + AROUND]
    return Relevant(document=entry["document"], passage=place)


async def _keep(rag: ragline.Rag, dataset: Dataset) -> None:
    """Keep the questions in the database, in the place of others that stood here before."""
    kept = {facts.name: facts.hash for facts in await rag.datasets()}
    if kept.get(dataset.name) != content_hash(dataset):
        await rag.add_dataset(dataset, replace=dataset.name in kept)


async def _measured(rag: ragline.Rag) -> Run:
    """Return an evaluation of all questions; nothing is taken from an earlier one."""
    with eval_progress.progress_bar("measuring", shown=True) as on_progress:
        run = await rag.evaluate(
            DATASET,
            collection=COLLECTION,
            k=K,
            answers="extractive",
            fresh=True,
            on_progress=on_progress,
        )
    for warning in run.warnings:
        print(f"warning: {warning}")
    if run.state != "complete":
        failed = ", ".join(f"{count} x {name}" for name, count in run.errors.items())
        raise DemoFailed(
            f"only {run.done} of {run.cases} questions were measured, {run.failed} failed: {failed}; "
            f"`ragline eval show {run.name}` says more"
        )
    return run


async def _figures(rag: ragline.Rag, run: Run, dataset: Dataset) -> Figures:
    results = {result.case_id: result for result in await rag.results(run)}
    measured = run.metrics
    return Figures(
        recall=measured["recall@10"].value,
        ndcg=measured["ndcg@10"].value,
        cited=measured["cited"].value,
        answered=measured["answered"].value,
        declined=measured["declined"].value,
        n=measured["recall@10"].n,
        n_unanswerable=measured["declined"].n,
        misses=tuple(
            f"{case.id}  rank {_rank(results[case.id]):>2}  {case.question}"
            for case in dataset.cases
            if case.is_answerable and not results[case.id].metrics["cited"]
        ),
    )


def _rank(result: CaseResult) -> str:
    reciprocal = result.metrics["mrr@10"]
    return str(round(1 / reciprocal)) if reciprocal else "-"


async def _changes(data_dir: Path) -> None:
    """Make a change that is kept and one that is put back, and show the ledger."""
    print("\nTwo changes, each measured before anybody is served by it")
    settings = config.load(data_dir=data_dir)
    with output.bars(shown=True) as advance:
        async with open_site(settings, advance=advance) as site:
            await _change(site, "index", {"m": 24, "ef_construction": 200}, "kept")
            await _change(site, "search", {"ef_search": 1}, "undone")
            print("\nThe ledger")
            print(change_text.table(await loop.entries(site, 4)))


async def _change(site: Site, kind: str, want: Mapping[str, Any], end: str) -> None:
    """Plan, apply and measure a change of the demo's collection; raise DemoFailed at another end."""
    part = Part(kind=kind, target=COLLECTION, want=want)
    # Times of a machine that may do other things as well: quality is what is shown here.
    asked = Asked(questions=100, latency_margin=1.0)
    planned = await loop.plan(site, [part], asked)
    if planned is None:
        print(f"\n{kind} of {COLLECTION}: as an earlier demo left it, nothing to do")
        return
    print(f"\n$ ragline change apply {planned.id}   # {planned.title}")
    ended = await loop.apply(site, planned.id)
    print(change_text.ended(ended))
    if ended.state != end:
        raise DemoFailed(f"change {ended.id} is {ended.state}, and should be {end}: {ended.reason}")


def _print(figures: Figures, run: Run, *, verbose: bool) -> None:
    print(
        f"\nMeasured on {figures.n} labelled questions, "
        f"and {figures.n_unanswerable} that nothing here answers"
    )
    says = {
        "recall@10": "the passage is among the first 10",
        "ndcg@10": "and how far up",
        "cited": "of those, answered with a citation that holds the answer",
        "answered": "of those, answered at all",
        "declined": "unanswerable questions answered with 'not found'",
    }
    for name, value in figures.named().items():
        print(f"  {name:<10} {value:.3f}  (floor {FLOORS[name]:.2f})  {says[name]}")
    if verbose:
        print("\n".join(["", "not cited:", *figures.misses]))


def _go_on(run: Run) -> None:
    print(
        '\nGo on:\n  .venv/bin/ragline ask "how do I pin an exact version?" -c demo'
        "\n  .venv/bin/ragline ingest PATH... -c mine"
        '\n  .venv/bin/ragline search "..." -c mine --explain'
        "\n  .venv/bin/ragline serve"
        f"\n  .venv/bin/ragline eval show {run.name}"
        "\n  .venv/bin/ragline eval run demo -c demo --answers extractive --method lexical"
        f" --name words-{run.id}"
        f"\n  .venv/bin/ragline eval compare {run.name} words-{run.id}"
        "\n  .venv/bin/ragline change plan search demo vector_weight=0.5 --dataset demo"
    )


if __name__ == "__main__":
    sys.exit(main())
