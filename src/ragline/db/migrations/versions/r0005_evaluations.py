"""Datasets, evaluation runs case by case, baselines, the cache of verdicts and measured noise."""

from ragline.db.migrations import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_file("0005_evaluations.sql")


def downgrade() -> None:
    run_file("0005_evaluations_down.sql")
