"""Checkpoints: the state of a training on disk, from which an interrupted one resumes.

A file that is damaged, or of another evaluation, is ignored.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unetx_space.files import write_whole

VERSION = 2
CHECKSUM_BYTES = 32
"""Length of the SHA-256 at the start of the file, since torch's own format does not notice a changed bit."""

logger = logging.getLogger(__name__)


class Checkpoint:
    """A file for the state of one evaluation."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Use ``path`` for the evaluation of this ``identity``: JSON values of everything that decides its numbers."""
        self._path = path
        self._identity = json.dumps({"checkpoint": VERSION, **identity}, sort_keys=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file atomically. A failure to write is logged, and training goes on."""
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "state": dict(state)}, buffer)
        content = buffer.getvalue()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            checksum = hashlib.sha256(content).digest()  # tells a truncated file, so that none is synced to the disk
            write_whole(self._path, checksum + content, durable=False)
        except OSError as error:
            logger.warning("the checkpoint %s cannot be written: %s", self._path, error)

    def load(self) -> Mapping[str, Any] | None:
        """The state saved last, on the CPU; None where there is none, or it cannot be used. Runs no code from the
        file."""
        try:
            data = self._path.read_bytes()
            checksum, content = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
            if hashlib.sha256(content).digest() != checksum:
                raise ValueError("its checksum does not fit")
            saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            identity, state = saved["identity"], saved["state"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            logger.warning("the checkpoint %s is damaged and not used: %s", self._path, reason)
            return None
        if identity != self._identity:
            logger.warning("the checkpoint %s is of another evaluation and not used", self._path)
            return None
        return state  # type: ignore[no-any-return]
