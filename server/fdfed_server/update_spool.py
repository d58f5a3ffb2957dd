"""A round's updates on disk, for an aggregation that needs all of them before it is done with any.

They lie in the clear, as they do in the memory of a coordinator that reads them, in files that only
their owner can read, and are gone when the round is. What a killed coordinator leaves is removed
when the next round begins.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import InvalidInput


class UpdateSpool:
    """One file a site: the model's tensors one after the other, as they are in memory.

    Args:
        folder: of the spool alone; made when it is entered, removed when it is left.
        reference: the model, which fixes names, shapes and dtypes.
    """

    def __init__(self, folder: Path, reference: Mapping[str, NDArray[Any]]) -> None:
        self._folder = folder
        self._reference = reference
        self._files: list[Path] = []
        self._offsets: dict[str, int] = {}
        offset = 0
        for name, own in reference.items():
            self._offsets[name] = offset
            offset += own.nbytes

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._files)

    def add(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Writes one checked update, a tensor at a time.

        Raises:
            InvalidInput: if the disk does not take it.
        """
        path = self._folder / f"{len(self._files):06d}.update"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for name, own in self._reference.items():
                    flat = np.ascontiguousarray(weights[name], dtype=own.dtype).reshape(-1)
                    file.write(flat.view(np.uint8).data)
        except OSError as err:
            raise InvalidInput(
                f"an update cannot be written to {self._folder} ({err.strerror}). aggregation = "
                "robust keeps the updates of all sites there for a round; make room, and start the "
                "coordinator again: the last complete round is kept"
            ) from err
        self._files.append(path)

    def block(self, name: str, begin: int, end: int) -> NDArray[np.float64]:
        """`(updates, end - begin)`: the elements from `begin` to `end` of one tensor, laid flat, of
        every update."""
        own = self._reference[name]
        offset = self._offsets[name] + begin * own.itemsize
        values = np.empty((len(self._files), end - begin))
        for row, path in zip(values, self._files, strict=True):
            row[:] = np.fromfile(path, own.dtype, count=end - begin, offset=offset)
        return values
