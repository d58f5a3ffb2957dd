"""Attack 7: a rotation keeps lengths, so without a translation they are read off."""

from __future__ import annotations

import numpy as np

from fdfed.studies.privacy.ranking import auc
from fdfed.studies.privacy.vectors import Array


def longer_one_found(longer: Array, shorter: Array, *, steps: int) -> float:
    """How often the longer of two prototypes is told by the mean length of what was sent in
    `steps` steps; 0.5 is chance.

    Args:
        longer: (n, C), what was sent of it in n steps.
        shorter: (n, C), the same of the other.
        steps: that an attacker averages over; n is cut into n // steps looks.
    """
    return auc(_looks(longer, steps), _looks(shorter, steps))


def _looks(sent: Array, steps: int) -> Array:
    lengths = np.linalg.norm(sent, axis=-1)
    count = len(lengths) // steps
    means: Array = lengths[: count * steps].reshape(count, steps).mean(-1)
    return means
