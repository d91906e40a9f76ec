"""Postings in blocks, with fresh and dead chunks beside them until they are folded in."""

from ragline.db.migrations import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_file("0002_lexical_blocks.sql")


def downgrade() -> None:
    run_file("0002_lexical_blocks_down.sql")
