"""How far a guessed vector is from the true one, and how far a guess without access is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def relative_error(guess: NDArray[Any], truth: NDArray[Any]) -> float:
    """|guess - truth| / |truth|, over all entries together: 0 is exact, 1 is what zeros score."""
    return float(np.linalg.norm(guess - truth) / np.linalg.norm(truth))


def stranger_error(points: Array) -> float:
    """The mean `relative_error` of guessing a row of `points` (n, C) by the next one: what an
    attacker scores who takes somebody else's prototype for the victim's."""
    return float(np.mean([relative_error(points[i - 1], points[i]) for i in range(len(points))]))


def mean_error(known: Array, points: Array) -> float:
    """The mean `relative_error` of guessing every row of `points` (n, C) by the mean of `known`
    (m, C): the best guess of an attacker who has other people's prototypes and sees nothing."""
    guess = known.mean(0)
    return float(np.mean([relative_error(guess, truth) for truth in points]))
