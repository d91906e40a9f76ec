"""Tables of somebody else's that are searched in place."""

from ragline.db.migrations import run_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_file("0008_attached_tables.sql")


def downgrade() -> None:
    run_file("0008_attached_tables_down.sql")
