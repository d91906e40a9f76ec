"""What the metadata of documents says, in rows that filters can look up."""

from ragline.db.migrations import run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_file("0003_document_attributes.sql")


def downgrade() -> None:
    run_file("0003_document_attributes_down.sql")
