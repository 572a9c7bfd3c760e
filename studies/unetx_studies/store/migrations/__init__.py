"""Older tables brought to the version of today, one step after another, inside the transaction that opens the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, update

from unetx_studies.store.migrations import v2
from unetx_studies.tables import SCHEMA_VERSION, MetaRow

STEPS: Mapping[int, Callable[[Connection], None]] = {1: v2.upgrade}
"""From each older version to the next. A step describes the tables of its own time and is never changed again."""


def migrate(connection: Connection, version: int) -> None:
    """Bring tables of ``version`` to ``SCHEMA_VERSION``."""
    for step in range(version, SCHEMA_VERSION):
        STEPS[step](connection)
    connection.execute(update(MetaRow).where(MetaRow.key == "schema_version").values(value=str(SCHEMA_VERSION)))
