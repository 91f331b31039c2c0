"""Objects in S3 (and `file:`), checkpoints that commit last, and which run a command belongs to."""

from magistral_core.storage.checkpoints import CheckpointStore, CorruptCheckpointError, Manifest, StoredFile
from magistral_core.storage.lease import Lease
from magistral_core.storage.objects import (
    MissingObjectError,
    ObjectStore,
    StoreUnreachableError,
    disk_full,
    explain_full_disk,
    open_store,
)
from magistral_core.storage.runs import RunHandle, RunIndex, recipe_digest
from magistral_core.storage.writer import PATIENCE_S, CheckpointWriter

__all__ = [
    "PATIENCE_S",
    "CheckpointStore",
    "CheckpointWriter",
    "CorruptCheckpointError",
    "Lease",
    "Manifest",
    "MissingObjectError",
    "ObjectStore",
    "RunHandle",
    "RunIndex",
    "StoreUnreachableError",
    "StoredFile",
    "disk_full",
    "explain_full_disk",
    "open_store",
    "recipe_digest",
]
