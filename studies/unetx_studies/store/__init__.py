"""The database of a study: the only code that opens it, its records, its lease, and the mirror in Optuna's tables."""

from unetx_studies.disk_full import StorageFull, full_disk_explained
from unetx_studies.store.lease import (
    HeldLease,
    Lease,
    LeaseLost,
    RunRecord,
    heartbeats,
    held_lease,
    new_run,
    utc_now,
)
from unetx_studies.store.open import Store, open_store, optuna_storage, study_url
from unetx_studies.store.optuna_mirror import OptunaMirror, optuna_constraints, optuna_state_and_value
from unetx_studies.store.records import Records, Stage, TrialRecord
from unetx_studies.store.retry import ConnectionLost, Patience, ServerGone
from unetx_studies.store.schema_versions import NoStudy
from unetx_studies.store.study_location import (
    StudyLocation,
    check_writable,
    find_location,
    is_begun,
    resolve_location,
    save_location,
)
from unetx_studies.study_folders import DATABASE, check_study

__all__ = [
    "DATABASE",
    "ConnectionLost",
    "HeldLease",
    "Lease",
    "LeaseLost",
    "NoStudy",
    "OptunaMirror",
    "Patience",
    "Records",
    "RunRecord",
    "ServerGone",
    "Stage",
    "StorageFull",
    "Store",
    "StudyLocation",
    "TrialRecord",
    "check_study",
    "check_writable",
    "find_location",
    "full_disk_explained",
    "heartbeats",
    "held_lease",
    "is_begun",
    "new_run",
    "open_store",
    "optuna_constraints",
    "optuna_state_and_value",
    "optuna_storage",
    "resolve_location",
    "save_location",
    "study_url",
    "utc_now",
]  # fmt: skip
