"""Student's t distribution, for whole and broken degrees of freedom."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


def share(x: float, freedom: float) -> float:
    """Return Student's t distribution function at `x`."""
    angles, shares = _table(freedom)
    return float(np.interp(math.atan(x / math.sqrt(freedom)), angles, shares))


def quantile(part: float, freedom: float) -> float:
    """Return the value that `part` of Student's t distribution stays below."""
    angles, shares = _table(freedom)
    return math.sqrt(freedom) * math.tan(float(np.interp(part, shares, angles)))


@lru_cache(maxsize=64)
def _table(freedom: float) -> tuple[Floats, Floats]:
    # With x = sqrt(freedom) tan(angle) the density is a power of the cosine, on a finite range.
    angles = np.linspace(-math.pi / 2, math.pi / 2, 20_001)
    density = np.cos(angles).clip(0) ** (freedom - 1)
    shares = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return angles, shares / shares[-1]
