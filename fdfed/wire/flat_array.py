"""The bytes of a one-dimensional array that came as a `.npy` file, without NumPy's reader.

NumPy reads the header of a stranger's file as a Python literal, which may raise anything, and sets
the memory aside that it claims before a byte of data is there. What crosses here is one fixed form.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import WireError
from fdfed.wire.spooled import SpooledBytes

_MAGIC: Final = b"\x93NUMPY\x01\x00"
_MAX_HEADER: Final = 256
"""NumPy pads the header of a flat array to 118 bytes."""
_HEADER: Final = re.compile(
    rb"\{'descr': '([<|][a-z]\d{1,2})', 'fortran_order': False, 'shape': \((\d{1,19}),\), \} *\n"
)


def flat_start(data: bytes | SpooledBytes, dtype: str) -> int:
    """Where the elements of a flat array of `dtype` begin in its bytes; they go on to the end.

    Args:
        data: a `.npy` file, version 1.0 of NumPy's array format.
        dtype: in NumPy's short form with its byte order: `|u1`, `<f8`.

    Raises:
        WireError: if it is none, is of another dtype, or is not as long as it says.
    """
    start = len(_MAGIC) + 2
    head = data.read(0, start + _MAX_HEADER) if isinstance(data, SpooledBytes) else data
    size = int.from_bytes(head[len(_MAGIC) : start], "little")
    header = None
    if head.startswith(_MAGIC) and size <= _MAX_HEADER:
        header = _HEADER.fullmatch(head, start, min(start + size, len(head)))
    if header is None:
        raise WireError("is not a flat array in NumPy's format 1.0")
    if header[1].decode() != dtype:
        raise WireError(f"is an array of {header[1].decode()}, not of {dtype}")
    left = len(data) - start - size
    if int(header[2]) * np.dtype(dtype).itemsize != left:
        raise WireError(f"claims {int(header[2])} elements in {left} bytes")
    return start + size


def flat_bytes(data: bytes | SpooledBytes, dtype: str) -> memoryview:
    """The elements of a flat array of `dtype`, as a view of `data`: nothing is copied. As for
    `flat_start` otherwise; what is so large that it was put on disk is refused."""
    if isinstance(data, SpooledBytes):
        raise WireError(f"has {len(data)} bytes where a few numbers belong")
    return memoryview(data)[flat_start(data, dtype) :]


def flat_array(data: bytes | SpooledBytes, dtype: str) -> NDArray[Any]:
    """The array itself, `(n,)`, read-only; see `flat_bytes`."""
    return np.frombuffer(flat_bytes(data, dtype), dtype)
