"""The only code that opens the database."""

from unetx_studies.full import StorageFull, full_disk_explained
from unetx_studies.store.ledger import DecisionRecord, JobRecord, LeaseLost, Ledger, RunRecord
from unetx_studies.store.one_writer import OneWriterStorage, one_writer_storage
from unetx_studies.store.open import DATABASE, Store, open_store, optuna_storage, study_url
from unetx_studies.store.records import ArchitectureRecord, EvaluationRecord, Records
from unetx_studies.tables import Stage

__all__ = [
    "DATABASE",
    "ArchitectureRecord",
    "DecisionRecord",
    "EvaluationRecord",
    "JobRecord",
    "LeaseLost",
    "Ledger",
    "OneWriterStorage",
    "Records",
    "RunRecord",
    "Stage",
    "StorageFull",
    "Store",
    "full_disk_explained",
    "one_writer_storage",
    "open_store",
    "optuna_storage",
    "study_url",
]
