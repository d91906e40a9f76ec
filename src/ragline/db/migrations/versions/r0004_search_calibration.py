"""What was measured of an embedding space, so that searches with filters choose the quicker way."""

from ragline.db.migrations import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_file("0004_search_calibration.sql")


def downgrade() -> None:
    run_file("0004_search_calibration_down.sql")
