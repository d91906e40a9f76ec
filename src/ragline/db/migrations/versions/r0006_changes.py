"""The ledger of changes, a second slot for each vector index, and search policies."""

from ragline.db.migrations import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_file("0006_changes.sql")


def downgrade() -> None:
    run_file("0006_changes_down.sql")
