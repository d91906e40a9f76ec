"""Student's t distribution against his table."""

from __future__ import annotations

import pytest

from ragline.core import student


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    # Student's table.
    [(0.975, 1, 12.706), (0.975, 3, 3.182), (0.95, 29, 1.699), (0.995, 14, 2.977)],
)
def test_students_quantiles_are_those_of_the_table(
    share: float, freedom: float, value: float
) -> None:
    assert student.quantile(share, freedom) == pytest.approx(value, abs=0.001)
    assert student.share(value, freedom) == pytest.approx(share, abs=0.0001)
    assert student.quantile(1 - share, freedom) == pytest.approx(-value, abs=0.001)
