"""Features of a frozen backbone for a whole data set, computed once and resumable.

A folder contains `key.json` (what the features belong to), `features.npy` (float16, one row per item) and `done.json` (how
many rows are complete; written after they are on disk). A folder with a different key is emptied.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grace.system.errors import GraceError
from grace.system.files import read_array, read_json, write_json
from grace.system.progress import progress


class FeatureCache:
    def __init__(self, folder: Path, key: Any, shape: tuple[int, ...]) -> None:
        """`key`: everything the features depend on, as plain values; `shape`: shape of all features, [items, ...]."""
        self.folder, self.shape = folder, shape
        digest = hashlib.sha256(json.dumps([key, shape]).encode()).hexdigest()
        if folder.exists() and not self._is_of(digest):
            shutil.rmtree(folder)
        if not folder.exists():
            folder.mkdir(parents=True)
            np.lib.format.open_memmap(self.path, mode="w+", dtype=np.float16, shape=shape).flush()
            write_json(folder / "done.json", 0)
            write_json(folder / "key.json", digest)

    @property
    def path(self) -> Path:
        return self.folder / "features.npy"

    @property
    def done(self) -> int:
        """Number of complete rows."""
        return int(read_json(self.folder / "done.json", "progress of the features"))

    def fill(self, batches: Iterable[Tensor], what: str) -> None:
        """Write the missing rows: `batches` yields them from row `done` on, in order."""
        rows, start = self.shape[0], self.done
        array = np.lib.format.open_memmap(self.path, mode="r+")
        with progress(total=rows, done=start, desc="features", unit=what) as bar:
            for batch in batches:
                if not torch.isfinite(batch).all():
                    raise GraceError(
                        f"{what} {start} to {start + len(batch) - 1} have features that do not fit float16"
                    )
                array[start : start + len(batch)] = batch.numpy()
                array.flush()
                start += len(batch)
                write_json(self.folder / "done.json", start)
                bar.update(len(batch))
        if start != rows:
            raise AssertionError(f"{start} rows were written instead of {rows}")

    def read(self) -> np.ndarray:
        """All features, memory-mapped."""
        if self.done != self.shape[0]:
            raise AssertionError(f"{self.folder} has only {self.done} of {self.shape[0]} rows")
        return read_array(self.path, "features")

    def _is_of(self, digest: str) -> bool:
        path = self.folder / "key.json"
        return path.exists() and read_json(path, "key of the features") == digest
