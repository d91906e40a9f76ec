"""How often the gate is wrong: verdicts on simulated runs with and without a loss.

Every verdict comes from `core.redline` with one line for each of the eleven claim metrics, five
metrics of retrieval and two latencies, all with their usual margins. Noise: a sampling judge that
turns 1 label of 20 round, anew in every run (about passages 1 of 50); searches that repeat exactly;
latencies of a busy machine, which inherit from their neighbours and come in bursts. In `answers anew`
the answers themselves are drawn again too.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np

import measure
import simulated
from measure import Figure
from ragline.core import claims, redline, stats
from ragline.core.policies import TIMES, Line, Policy
from ragline.core.redline import Verdict
from ragline.core.runs import Figure as Measured
from simulated import BUSY, Loss, Machine

N = 225
SIZES = (15, 60, N, 1000)
LOSSES = (0.0, 0.02, 0.05, 0.10)
NULL_RUNS = 2_000
# Enough to tell 99 from 100; the larger ones are slow.
RUNS = {15: 400, 60: 400, N: 400, 1000: 100}
REPEATS = 4
MARGIN = 0.01
SLOWER = 0.10
WORKERS = 2
QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95}
# Fewer than a policy's 10,000, so that the table takes minutes.
DRAWS = 4_000
FEW_DRAWS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One row of the table: what the two runs differ by, and in what noise they are seen."""

    what: str
    n: int
    loss: Loss = "answers"
    points: float = 0.0
    is_answered_anew: bool = False
    machine: Machine = BUSY
    slower: float = 1.0
    runs: int = 400
    is_judged: bool = False
    is_noise_known: bool = True

    @property
    def title(self) -> str:
        slower = f"{self.slower - 1:+.0%} time" if self.slower != 1 else ""
        return f"{self.what:<34} {self.n:>5} {slower or f'{100 * self.points:.0f}':>9}"


def policy(seed: int, resamples: int) -> Policy:
    """Return a relative line for every simulated metric."""
    quality = (
        Line(metric=name, margin=MARGIN, better="lower" if name == "self_knowledge" else None)
        for name in (*claims.METRICS, *simulated.RETRIEVAL)
    )
    latency = (Line(metric=name, margin=SLOWER) for name in QUANTILES)
    return Policy(lines=(*quality, *latency), seed=seed, resamples=resamples)


def compared(setup: Setup, seed: int) -> Verdict:
    """Return the verdict on one simulated run against its baseline."""
    generator = np.random.default_rng([seed, setup.n])
    before = simulated.world(setup.n, generator)
    now = simulated.answered(before, generator) if setup.is_answered_anew else before
    if setup.points:
        now = simulated.worse(now, setup.loss, setup.points, generator)
    ids = tuple(f"{at:04}" for at in range(setup.n))
    both = [
        simulated.values(
            {
                **simulated.claims(simulated.judged(one, generator)),
                **simulated.retrieval(one),
                TIMES: simulated.times(one, setup.machine, generator, slower=slower),
            },
            ids,
        )
        for one, slower in ((before, 1.0), (now, setup.slower))
    ]
    repeats = [simulated.times(before, setup.machine, generator) for _ in range(REPEATS)]
    known = {
        name: stats.half_width([stats.quantile(one, share) for one in repeats], is_ratio=True)
        for name, share in QUANTILES.items()
    }
    return redline.verdict(
        policy(seed, DRAWS if setup.is_judged else FEW_DRAWS),
        _figures(both[1]),
        "llm:simulated",
        both[1],
        both[0],
        is_identical=False,
        noise=known if setup.is_noise_known else dict.fromkeys(QUANTILES, 0.0),
    )


def _figures(values: dict[str, dict[str, float]]) -> dict[str, Measured]:
    found = {
        name: Measured(value=math.fsum(some.values()) / len(some), n=len(some))
        for name, some in values.items()
    }
    times = tuple(values[TIMES].values())
    return found | {
        name: Measured(value=stats.quantile(times, share), n=len(times))
        for name, share in QUANTILES.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What came of a row's comparisons: verdicts, failed lines, and p95 by itself."""

    setup: Setup
    verdicts: Counter[str]
    quality: int
    """How many passed every line but those of latency."""
    failed: Counter[str]
    p95: Counter[str]

    @property
    def n(self) -> int:
        return self.verdicts.total()

    def figure(
        self, what: str, status: str, *, at_most: float | None = None, at_least: float | None = None
    ) -> Figure:
        count = self.verdicts[status]
        low, high = wilson(count, self.n)
        return Figure(
            what=what,
            value=count / self.n,
            low=low,
            high=high,
            n=self.n,
            at_most=at_most,
            at_least=at_least,
        )


def counted(pool: ProcessPoolExecutor, setup: Setup) -> Counted:
    """Return what the gate says of a row's simulated comparisons; prints the row."""
    found = list(pool.map(partial(compared, setup), range(setup.runs), chunksize=10))
    one = Counted(
        setup=setup,
        verdicts=Counter(verdict.status for verdict in found),
        quality=sum(
            all(row.status == "pass" for row in verdict.rows if not row.is_ratio)
            for verdict in found
        ),
        failed=Counter(
            row.metric for verdict in found for row in verdict.rows if row.status == "fail"
        ),
        p95=Counter(verdict.rows[-1].status for verdict in found),
    )
    shares = "  ".join(_share(one.verdicts[s], one.n) for s in ("fail", "inconclusive", "pass"))
    first = ", ".join(f"{name} {count / one.n:.2f}" for name, count in one.failed.most_common(3))
    print(f"  {setup.title}  {shares}  {one.quality / one.n:.3f}  {one.n:>5}  {first}", flush=True)
    return one


def _share(count: int, n: int) -> str:
    low, high = wilson(count, n)
    return f"{count / n:.3f} [{low:.3f}, {high:.3f}]"


def wilson(count: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share. Wilson, Probable inference (1927)."""
    z, share = 1.96, count / n
    middle = (share + z * z / 2 / n) / (1 + z * z / n)
    width = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    return max(0.0, middle - width) if count else 0.0, min(1.0, middle + width)


def main() -> int:
    """Print the table and the figures; exit 1 when a limit is broken."""
    options = measure.options(__doc__).parse_args()
    return measure.verdict(_run(options), options.json)


def _run(options: argparse.Namespace) -> list[Figure]:
    _check_formulas()
    print(
        "Verdicts over all 18 lines: share of comparisons [95 %]. Then the share that passes all lines"
    )
    print("of quality, whatever the latencies; how many comparisons; and the lines that fail most.")
    shares = "  ".join(f"{status:<20}" for status in ("fail", "inconclusive", "pass"))
    print(f"  {'loss of':<34} {'n':>5} {'points':>9}  {shares}  quality")
    # Each worker has a processor; threads of its own would only get in the other's way.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        rows = [counted(pool, setup) for setup in _setups()]
    return measure.said([*_limits(rows), *_latencies(rows), _speed()])


def _setups() -> Iterable[Setup]:
    for n in SIZES:
        runs = RUNS[n]
        null = NULL_RUNS if n == N else runs
        yield Setup(what="nothing", n=n, runs=null, is_judged=n == N)
        lost: tuple[tuple[Loss, str], ...]
        lost = (("answers", "true claims"), ("contexts", "gold claims found"))
        for loss, what in lost:
            for points in LOSSES[1:]:
                yield Setup(what=what, n=n, loss=loss, points=points, runs=runs, is_judged=n == N)
        for points in LOSSES[1:]:
            yield Setup(what="all or nothing: hits", n=n, loss="hits", points=points, runs=runs)
    for points in LOSSES:
        what = "true claims" if points else "nothing"
        yield Setup(
            what=f"{what}, answers anew", n=N, points=points, is_answered_anew=True, runs=RUNS[N]
        )
    for slower in (1.0, 1.2, 1.5):
        yield Setup(
            what="speed, calm machine",
            n=N,
            machine=simulated.CALM,
            slower=slower,
            runs=NULL_RUNS if slower == 1 else RUNS[N],
        )
    yield Setup(what="speed, noise taken for none", n=N, is_noise_known=False, runs=RUNS[N])


def _limits(rows: Sequence[Counted]) -> Iterable[Figure]:
    for row in rows:
        setup = row.setup
        if setup.runs == NULL_RUNS:
            machine = "busy" if setup.machine == BUSY else "calm"
            yield row.figure(f"fails without a difference, {machine} machine", "fail", at_most=0.05)
        elif setup.is_judged and setup.points >= 0.05:
            what = f"{100 * setup.points:.0f} points of {setup.what}: fails"
            yield row.figure(what, "fail", at_least=0.8 if setup.points < 0.1 else 0.99)
    few = [row for row in rows if row.setup.n < stats.MINIMUM]
    total = sum(row.n for row in few)
    decided = total - sum(row.verdicts["inconclusive"] for row in few)
    yield Figure(what="decided with 15 cases", value=decided / total, n=total, at_most=0.0)


def _latencies(rows: Sequence[Counted]) -> Iterable[Figure]:
    for row in rows:
        setup = row.setup
        if setup.what.startswith("speed") or (setup.n == N and setup.what == "nothing"):
            change = f"{setup.slower - 1:+.0%}" if setup.slower != 1 else "unchanged"
            note = ", ".join(f"{count / row.n:.2f} {name}" for name, count in row.p95.items())
            share = row.p95["fail"] / row.n
            low, high = wilson(row.p95["fail"], row.n)
            what = f"p95 fails, {change}, {setup.what.removeprefix('speed, ')}"
            what = what.replace("nothing", "busy machine")
            yield Figure(what=what, value=share, low=low, high=high, n=row.n, note=note)


def _speed() -> Figure:
    differences = np.random.default_rng(1).normal(-0.01, 0.1, 1_000)
    took = []
    for seed in range(11):
        started = time.perf_counter()
        stats.noninferior(differences, margin=MARGIN, alpha=0.05, seed=seed, resamples=10_000)
        took.append(time.perf_counter() - started)
    middle, low, high = measure.median_of(took, seed=1)
    what = "paired bootstrap, 1,000 cases, 10,000 draws"
    return Figure(what=what, value=middle, low=low, high=high, n=11, unit="s", at_most=1.0)


def _check_formulas() -> None:
    """Raise when the metrics of many cases at once are not those of `core.claims`."""
    generator = np.random.default_rng(0)
    one = simulated.judged(simulated.world(50, generator), generator)
    fast = simulated.claims(one)
    for case in range(one.n):
        for name, value in claims.metrics(simulated.labels(one, case)).items():
            if abs(value - fast[name][case]) > 1e-9:
                raise AssertionError(f"{name} of case {case} is {fast[name][case]}, not {value}")


if __name__ == "__main__":
    sys.exit(main())
