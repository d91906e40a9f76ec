"""Backups of tables, made before something may be lost."""

from ragline.db.migrations import run_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_file("0009_backups.sql")


def downgrade() -> None:
    run_file("0009_backups_down.sql")
