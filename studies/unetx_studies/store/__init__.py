"""The only code that opens the database."""

from unetx_studies.store.open import DATABASE, Store, open_store, optuna_storage, study_url
from unetx_studies.store.records import ArchitectureRecord, EvaluationRecord, Records

__all__ = [
    "DATABASE",
    "ArchitectureRecord",
    "EvaluationRecord",
    "Records",
    "Store",
    "open_store",
    "optuna_storage",
    "study_url",
]
