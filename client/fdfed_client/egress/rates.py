"""How much may leave: bytes of a round over all channels, frames of a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fdfed_client.egress.policy import PolicyRefusal

RoundKey = tuple[str, int, int]
"""Run, round and attempt."""


class RoundBudget:
    """Bytes that leave for one attempt at a round; what is refused counts for nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._key: RoundKey | None = None
        self._spent = 0

    def spend(self, key: RoundKey, size: int) -> None:
        """Counts `size` bytes of the attempt `key`, or refuses them.

        Raises:
            PolicyRefusal: if the attempt's bytes would be more than its budget.
        """
        with self._lock:
            spent = self._spent if key == self._key else 0
            if spent + size > self._most:
                raise PolicyRefusal(
                    "max_bytes_per_round",
                    f"{size} bytes more would make {spent + size} in round {key[1]}, and "
                    f"max_bytes_per_round in [policy] of site.toml is {self._most}",
                )
            self._key, self._spent = key, spent + size


class PerSecond:
    """At most so many in any second of the clock that has begun with the first of them."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._began = -1.0
        self._count = 0

    def admit(self) -> None:
        """Counts one, or refuses it.

        Raises:
            PolicyRefusal: if this second has had its number.
        """
        now = self._clock()
        if self._began < 0 or now - self._began >= 1:
            self._began, self._count = now, 0
        if self._count >= self._most:
            raise PolicyRefusal(
                "max_frames_per_second",
                f"more than {self._most} frames in a second, which max_frames_per_second in "
                "[policy] of site.toml forbids",
            )
        self._count += 1
