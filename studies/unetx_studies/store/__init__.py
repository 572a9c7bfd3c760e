"""The only code that opens the database."""

from unetx_studies.full import StorageFull, full_disk_explained
from unetx_studies.neighbours import DATABASE, check_study
from unetx_studies.store.ledger import DecisionRecord, JobRecord, LeaseLost, Ledger, RunRecord
from unetx_studies.store.one_writer import OneWriterStorage, one_writer_storage
from unetx_studies.store.open import Store, open_store, optuna_storage, study_url
from unetx_studies.store.patience import ConnectionLost, Patience, ServerGone, again
from unetx_studies.store.place import Place, check_writable, find_place, is_begun, keep_place, settle_place
from unetx_studies.store.records import ArchitectureRecord, EvaluationRecord, Records
from unetx_studies.tables import Stage

__all__ = [
    "DATABASE",
    "ArchitectureRecord",
    "ConnectionLost",
    "DecisionRecord",
    "EvaluationRecord",
    "JobRecord",
    "LeaseLost",
    "Ledger",
    "OneWriterStorage",
    "Patience",
    "Place",
    "Records",
    "RunRecord",
    "ServerGone",
    "Stage",
    "StorageFull",
    "Store",
    "again",
    "check_study",
    "check_writable",
    "find_place",
    "full_disk_explained",
    "is_begun",
    "keep_place",
    "one_writer_storage",
    "open_store",
    "optuna_storage",
    "settle_place",
    "study_url",
]
