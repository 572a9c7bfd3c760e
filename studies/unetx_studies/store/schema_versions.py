"""Checks our tables in a database by their version: makes missing ones, and brings old ones up to date."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from unetx_space.errors import RequestError
from unetx_studies.store.server import without_secrets
from unetx_studies.store.tables import METADATA

VERSION_TABLE = "unetx_version"
REVISIONS = "unetx_studies:store/migrations"
"""Package and folder in which alembic finds the revisions of our tables."""


class NoStudy(RequestError):
    """The database is there and holds none of our tables: another's, or one whose tables are being made just now."""


def check_schema(connection: Connection, *, create: bool, read_only: bool) -> None:
    """Make sure that our tables are there and of today's version.

    Missing ones are made where ``create`` says so, those of an older release are brought up to date unless they are
    only to be read. Raises NoStudy where they are missing, RequestError for tables that cannot be read.
    """
    shown = without_secrets(connection.engine.url)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", REVISIONS)
    revisions = ScriptDirectory.from_config(config)
    latest = str(revisions.get_current_head())
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    ours = [name for name in inspect(connection).get_table_names() if name.startswith("unetx_")]
    if found is None and not ours:
        if not create:
            raise NoStudy(f"{shown} holds no unetx-search study; name the folder that a search wrote")
        METADATA.create_all(connection)
        command.stamp(config, latest)
    elif found in {revision.revision for revision in revisions.walk_revisions()} - {latest} and not read_only:
        command.upgrade(config, latest)
    elif found != latest:
        raise RequestError(
            f"{shown} has tables of version {found or 'before the first'}, this unetx-search reads version {latest}; "
            "open it with the unetx-search that wrote it, or a newer one"
        )
