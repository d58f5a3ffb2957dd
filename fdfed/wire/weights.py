"""The tensors of a network in one array of bytes, and back, without a copy of the model.

One array, not one a tensor: Flower moves every array as objects of their own, a request each, which
made a round of a U-Net take ten times as long.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from fdfed.errors import WireError
from fdfed.wire.flat_array import flat_start
from fdfed.wire.spooled import SpooledBytes

MAX_MANIFEST: Final = 4 << 20
"""Characters of the list of tensors."""
_PACKED: Final = "packed"
_INTEGER: Final = "<u8"
_MAX_TENSORS: Final = 10_000
_MAX_ELEMENTS: Final = 2**40

_Dtype = Literal["float16", "float32", "float64", "int64", "uint16"]
"""`uint16` are the bits of bfloat16, which NumPy lacks (`fdfed.wire.changes`)."""
_Side = Annotated[int, Field(ge=0, le=2**31)]
_Shape = Annotated[list[_Side], Field(max_length=8)]


class Blockwise(Mapping[str, NDArray[Any]]):
    """Tensors by name, of which no more than a block need be in memory."""

    @abstractmethod
    def described(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Dtype and shape of a tensor, of which nothing is read."""

    @abstractmethod
    def block(
        self, name: str, begin: int, end: int, *, buffer: NDArray[np.uint8] | None = None
    ) -> NDArray[Any]:
        """The elements from `begin` to `end` of a tensor, laid flat; values are not checked.

        Args:
            buffer: bytes that may be overwritten, enough for the elements: a block may lie in them,
                which saves making an array for each.
        """


class Weights(Blockwise):
    """The tensors of a message by name: read-only views of the one packed array that travelled, or,
    where it lies on disk, what is read from there each time.

    A tensor's values are checked when it is first read, and nothing of the model's size is copied.

    Raises:
        WireError: if the packed array and its list of tensors do not agree; on access, for a value
            that is not finite.
    """

    def __init__(self, record: ArrayRecord, manifest: str) -> None:
        if list(record) != [_PACKED]:
            raise WireError(f"the weights are not the one array {_PACKED!r}")
        self._data: bytes | SpooledBytes = record[_PACKED].data
        try:
            self._begin = flat_start(self._data, "|u1")
        except WireError as err:
            raise WireError(f"the packed weights: {err}") from err
        self._checked: set[str] = set()
        self._places: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
        offset = 0
        for name, dtype, shape in _parse_manifest(manifest):
            self._places[name] = (dtype, shape, offset)
            offset += dtype.itemsize * math.prod(shape)
        if offset != self.nbytes:
            raise WireError(
                f"the packed weights are {self.nbytes} bytes, but their list says {offset}"
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        dtype, shape, _ = self._places[name]
        value = self.block(name, 0, math.prod(shape)).reshape(shape)
        value.flags.writeable = False
        # Once is enough: what has arrived does not change.
        if dtype.kind == "f" and name not in self._checked:
            if not np.isfinite(value).all():
                raise WireError(f"the tensor {name!r} holds values that are not finite")
            self._checked.add(name)
        return value

    def described(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Dtype and shape of a tensor, of which nothing is read."""
        dtype, shape, _ = self._places[name]
        return dtype, shape

    def block(
        self, name: str, begin: int, end: int, *, buffer: NDArray[np.uint8] | None = None
    ) -> NDArray[Any]:
        dtype, _, offset = self._places[name]
        start, length = (
            self._begin + offset + begin * dtype.itemsize,
            (end - begin) * dtype.itemsize,
        )
        if isinstance(self._data, SpooledBytes):
            found = np.empty(length, np.uint8) if buffer is None else buffer[:length]
            self._data.read_into(start, found.data)
            return found.view(dtype)
        return np.frombuffer(self._data, dtype, count=end - begin, offset=start)

    def __contains__(self, name: object) -> bool:
        # That of `Mapping` would read the tensor.
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Serialised size in bytes."""
        return len(self._data) - self._begin


def pack(weights: Mapping[str, NDArray[Any]]) -> tuple[ArrayRecord, str]:
    """All tensors in one array of bytes (little-endian, in order), and the list of them."""
    entries: list[tuple[str, str, list[int]]] = []
    pieces: list[NDArray[np.uint8]] = [np.empty(0, dtype=np.uint8)]
    for name, value in weights.items():
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        # `require` and not `ascontiguousarray`, which would make a scalar one-dimensional.
        flat = np.require(little, requirements="C").reshape(-1).view(np.uint8)
        entries.append((name, value.dtype.name, list(value.shape)))
        pieces.append(flat)
    return ArrayRecord({_PACKED: Array(np.concatenate(pieces))}), json.dumps(
        entries, separators=(",", ":")
    )


def pack_integers(values: NDArray[np.uint64]) -> ArrayRecord:
    """Flat integers as the one packed array (little-endian)."""
    return ArrayRecord({_PACKED: Array(values.astype(_INTEGER, copy=False))})


class Integers:
    """The flat integers of a message, `(n,)`, modulo 2⁶⁴: in memory, or read from disk in blocks.

    Args:
        data: a `.npy` file of one dimension, of little-endian uint64.

    Raises:
        WireError: if it is not.
    """

    def __init__(self, data: bytes | SpooledBytes) -> None:
        self._data = data
        self._begin = flat_start(data, _INTEGER)
        self.is_spooled = isinstance(data, SpooledBytes)
        self.size = (len(data) - self._begin) // 8

    def block(self, begin: int, end: int) -> NDArray[np.uint64]:
        """The integers from `begin` to `end`, read-only."""
        start = self._begin + 8 * begin
        if isinstance(self._data, SpooledBytes):
            found = np.empty(end - begin, _INTEGER)
            self._data.read_into(start, found.view(np.uint8).data)
            found.flags.writeable = False
            return found
        return np.frombuffer(self._data, _INTEGER, count=end - begin, offset=start)

    def whole(self) -> NDArray[np.uint64]:
        """All of them at once."""
        return self.block(0, self.size)


def packed_integers(record: ArrayRecord) -> Integers:
    """The integers of `pack_integers`.

    Raises:
        WireError: if it is not one array of one dimension, of little-endian uint64.
    """
    if list(record) != [_PACKED]:
        raise WireError(f"the masked numbers are not the one array {_PACKED!r}")
    try:
        return Integers(record[_PACKED].data)
    except WireError as err:
        raise WireError(f"the masked numbers: {err}") from err


def _parse_manifest(text: str) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    """Name, dtype and shape of each packed tensor.

    Raises:
        WireError: for anything but a list of at most `_MAX_TENSORS` such triples, each name once.
    """
    try:
        entries = TypeAdapter(list[tuple[str, _Dtype, _Shape]]).validate_json(text)
    except ValidationError as err:
        raise WireError("the list of packed weights is not of the agreed form") from err
    if len(entries) > _MAX_TENSORS or len({name for name, _, _ in entries}) != len(entries):
        raise WireError("the list of packed weights is too long, or names a tensor twice")
    for name, _, shape in entries:
        # Also of an empty tensor: NumPy counts the other sides, and refuses what is beyond it.
        if math.prod(max(side, 1) for side in shape) > _MAX_ELEMENTS:
            raise WireError(f"the list of packed weights gives {name!r} sides that no tensor has")
    return [(n, np.dtype(d).newbyteorder("<"), tuple(shape)) for n, d, shape in entries]
