"""Databases of older versions: brought to today's tables by a writer, read as they are by a reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, Inspector, inspect, text

from unetx_studies.store import Ledger, Records, open_store, study_url
from unetx_studies.tables import SCHEMA_VERSION

V1_TABLES = ("unetx_meta", "unetx_architectures", "unetx_evaluations", "unetx_case_scores", "unetx_curves")

LATER_TABLES = (
    "unetx_leases",
    "unetx_runs",
    "unetx_jobs",
    "unetx_decisions",
    "unetx_insights",
)


def make_version_1(url: str) -> str:
    """A database as version 1 left it: today's tables without those that came later."""
    with open_store(url, create=True) as store, store.writing() as session:
        for table in LATER_TABLES:
            session.execute(text(f"drop table {table}"))
        session.execute(text("update unetx_meta set value = '1' where key = 'schema_version'"))
        session.execute(text("insert into unetx_architectures values ('k', '{}', 1, 2)"))
    return url


def shape(engine: Engine) -> dict[str, object]:
    """Everything a schema says, in an order of its own."""
    found: Inspector = inspect(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)],
            found.get_pk_constraint(table),
            found.get_foreign_keys(table),
            found.get_indexes(table),
            found.get_unique_constraints(table),
        )
        for table in sorted(found.get_table_names())
    }


def test_version_1_is_brought_to_the_tables_of_a_new_database_and_keeps_its_rows(url: str) -> None:
    with open_store(url, create=True) as store:
        expected = shape(store.engine)
    make_version_1(url)
    with open_store(url, create=True) as store:
        assert shape(store.engine) == expected
        with store.reading() as session:
            assert session.scalar(text("select value from unetx_meta where key = 'schema_version'")) == str(
                SCHEMA_VERSION
            )
            assert session.scalar(text("select macs from unetx_architectures where key = 'k'")) == 2
    with open_store(url, create=False) as store:
        assert shape(store.engine) == expected, "opening it again changes nothing"


def test_a_reader_leaves_version_1_as_it_is_and_finds_an_empty_ledger(tmp_path: Path) -> None:
    url = make_version_1(study_url(tmp_path))
    before = (tmp_path / "study.db").read_bytes()
    with open_store(url, create=False, read_only=True) as store:
        ledger = Ledger(store, "s")
        assert (ledger.holder(), ledger.runs(), ledger.jobs(), ledger.decisions()) == (None, (), (), ())
        records = Records(store, "s")
        assert (records.evaluations(), records.case_scores(0), records.insight(0)) == ((), (), None)
        assert set(inspect(store.engine).get_table_names()) == set(V1_TABLES)
    assert (tmp_path / "study.db").read_bytes() == before


def test_a_migration_that_fails_leaves_version_1_whole(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_version_1(url)
    with open_store(url, create=False, read_only=True) as store:
        before = shape(store.engine)

    def fail(connection: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr("unetx_studies.store.migrations.update", fail)
    with pytest.raises(ArithmeticError):
        open_store(url, create=True)
    with open_store(url, create=False, read_only=True) as store:
        assert shape(store.engine) == before
