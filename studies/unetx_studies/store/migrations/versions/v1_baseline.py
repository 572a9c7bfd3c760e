"""The tables of the first release. A new database gets the tables of today at once and is stamped as the latest."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing comes before these tables."""
