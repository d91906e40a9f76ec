"""Snapshots of the server: what was there at a time, to be compared and to go back to."""

from ragline.db.migrations import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_file("0007_snapshots.sql")


def downgrade() -> None:
    run_file("0007_snapshots_down.sql")
