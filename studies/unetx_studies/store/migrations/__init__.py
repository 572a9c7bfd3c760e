"""How our tables change from one release to the next, as alembic keeps it; a revision is never changed again."""
