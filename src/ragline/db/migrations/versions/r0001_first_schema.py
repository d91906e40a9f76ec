"""Collections, documents, chunks, embedding spaces, postings and their statistics."""

from ragline.db.migrations import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_file("0001_first_schema.sql")


def downgrade() -> None:
    run_file("0001_first_schema_down.sql")
