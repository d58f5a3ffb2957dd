"""Real numbers as integers whose sum over all sites is exact and cannot wrap around.

Masks are uniform only in a finite group, so what is masked is an integer modulo 2⁶⁴:

    q(x) = round(x · 2²⁵)          for a real number x, |x| ≤ 2¹⁴
    q(k) = k                       for a counter k, 0 ≤ k < 2³⁹

A site sends n q(x) for its n training images, and Σ n over the sites stays below 2²⁴. Hence
|Σ n q| < 2²⁴ · 2³⁹ = 2⁶³: read as a signed number, the sum modulo 2⁶⁴ is the sum itself, whatever
the number of sites. What is out of range is refused at the site, never clipped: a clipped weight
would be a wrong one that nobody sees.

Rounding moves the mean over sites by at most 2⁻²⁶ = 1.5 · 10⁻⁸, which is the spacing of fp32 at
weights of 1/8 to 1/4.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.errors import InvalidInput

FRACTION_BITS: Final = 25
LIMIT: Final = 2.0**14
"""Of a real number; included."""
COUNTER_LIMIT: Final = 2**39
"""Of a counter; not included."""
_BLOCK: Final = 1 << 18
"""Numbers that are divided at a time, so that no second array of the model's size comes up."""
EXAMPLES_LIMIT: Final = 2**24
"""Of Σ n over the sites; not included."""


def encode(values: NDArray[Any], *, name: str) -> NDArray[np.int64]:
    """q of every entry, flat: real numbers are scaled and rounded to even, integers kept.

    Args:
        name: what the values are, for the error.

    Raises:
        InvalidInput: for a value that is out of range, or is no number.
    """
    flat = values.reshape(-1)
    if flat.dtype.kind == "i":
        if len(flat) and not (flat.min() >= 0 and flat.max() < COUNTER_LIMIT):
            raise InvalidInput(
                f"the counter {name!r} is not in 0 to {COUNTER_LIMIT - 1}, which is what a masked "
                "sum has room for; use aggregation = plain"
            )
        return flat.astype(np.int64)
    # NaN fails this comparison, too.
    if len(flat) and not (flat.min() >= -LIMIT and flat.max() <= LIMIT):
        raise InvalidInput(
            f"{name!r} holds a value that is not within ±{LIMIT:g}, which is what a masked sum has "
            "room for; training has probably diverged: lower learning_rate, or use "
            "aggregation = plain"
        )
    # A power of two scales exactly, so that rounding is the only error.
    return np.rint(flat.astype(np.float64) * 2.0**FRACTION_BITS).astype(np.int64)


def mean(total: NDArray[np.uint64], *, examples: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Σ n x / Σ n, flat, from Σ n q(x) modulo 2⁶⁴; a mean of counters is rounded to a counter.

    Args:
        total: Σ n q(x) mod 2⁶⁴, flat.
        examples: Σ n, above 0.
        dtype: of the result; an integer type says that x was a counter.
    """
    result = np.empty(len(total), dtype)
    # Below 2⁴⁹, so that the product is exact.
    divisor = examples * (1.0 if dtype.kind == "i" else 2.0**FRACTION_BITS)
    for begin in range(0, len(total), _BLOCK):
        part = total[begin : begin + _BLOCK].view(np.int64).astype(np.float64)
        part /= divisor
        result[begin : begin + _BLOCK] = np.rint(part) if dtype.kind == "i" else part
    return result
