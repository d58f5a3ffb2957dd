"""The arrays of a message, read without NumPy's own reader."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fdfed.errors import WireError
from fdfed.wire.flat_array import flat_array, flat_bytes


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    return buffer.getvalue()


def headed(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@given(array=arrays(np.float64, st.integers(0, 40)))
def test_an_array_that_numpy_wrote_is_read_bit_for_bit(array: np.ndarray) -> None:
    assert flat_array(saved(array), "<f8").tobytes() == array.tobytes()
    assert np.load(io.BytesIO(saved(array))).tobytes() == array.tobytes()


def test_nothing_is_copied() -> None:
    data = saved(np.arange(9, dtype=np.uint8))
    assert flat_bytes(data, "|u1").obj is data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a flat array"),
        (saved(np.zeros((2, 2))), "is not a flat array"),
        (saved(np.zeros(3), (2, 0)), "is not a flat array"),
        (saved(np.zeros(3, np.dtype([("a", "<f8")]))), "is not a flat array"),
        (saved(np.zeros(3, np.float32)), "of <f4, not of <f8"),
        (saved(np.zeros(3, ">f8")), "is not a flat array"),
        (saved(np.zeros(3))[:-1], "claims 3 elements in 23 bytes"),
        (saved(np.zeros(3)) + b"\x00" * 8, "claims 3 elements in 32 bytes"),
        # NumPy's reader raised errors of Python's tokeniser, or ran out of memory, on these.
        (headed("{'descr': ('"), "is not a flat array"),
        (headed("-" * 9_000), "is not a flat array"),
        (headed("{'descr': " + "[" * 90), "is not a flat array"),
    ],
)
def test_any_other_form_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        flat_array(data, "<f8")
