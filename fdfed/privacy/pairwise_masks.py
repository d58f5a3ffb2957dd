"""Pairwise masks: what one site of a pair adds to its numbers, the other subtracts.

    y_s = x_s + Σ_{t > s} m_st − Σ_{t < s} m_ts   (mod 2⁶⁴),   hence   Σ_s y_s = Σ_s x_s

m_st is the key stream of AES-256 in counter mode under a key that the two sites alone have, read as
little-endian 64-bit integers. Seen without the keys, every set of y but the whole one is uniform.

Source: Bonawitz et al. 2017 (doi 10.1145/3133956.3133982), section 4.0.1. Departure: no secret
shares to recover from a site that drops out; the attempt is void then, which suits few hospitals
and leaves nothing to a coordinator that lies about who dropped out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from fdfed.errors import CryptoError

KEY_BYTES: Final = 32
_CHUNK: Final = 1 << 15
"""Integers that are masked at a time: 256 KiB stay in the cache of a core."""


@dataclass(frozen=True, slots=True)
class PairKey:
    """The key of one pair's stream, for one of the two."""

    key: bytes
    adds: bool
    """Whether this site adds the stream; the peer then subtracts it."""


class PairwiseMasks:
    """One site's masks for one attempt. They serve once: two plaintexts under one mask would give
    their difference away."""

    def __init__(self, keys: Sequence[PairKey]) -> None:
        self._keys: tuple[PairKey, ...] | None = tuple(keys)

    def add_(self, values: NDArray[np.uint64]) -> None:
        """Adds the masks to `values` in place, modulo 2⁶⁴.

        Raises:
            CryptoError: if the masks have been used, or there are none.
        """
        keys, self._keys = self._keys, None
        if not keys:
            raise CryptoError(
                "the masks of this attempt have been used, or there is no peer to share one with; "
                "an answer leaves under fresh masks alone. The coordinator must begin a new attempt"
            )
        streams = [(_stream(pair.key), np.add if pair.adds else np.subtract) for pair in keys]
        zeros, buffer = memoryview(bytes(8 * _CHUNK)), bytearray(8 * _CHUNK)
        stream = np.frombuffer(buffer, "<u8")
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            for encryptor, combine in streams:
                encryptor.update_into(zeros[: chunk.nbytes], buffer)
                combine(chunk, stream[: len(chunk)], out=chunk)


def _stream(key: bytes) -> CipherContext:
    # Each key makes one stream in its life, so that a counter from zero never repeats.
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
