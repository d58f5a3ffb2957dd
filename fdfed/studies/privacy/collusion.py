"""Attack 5: one site hands the coordinator the group secret."""

from __future__ import annotations

import numpy as np

from fdfed.exchange import BlindingSecret, StepKey, TapLayout
from fdfed.exchange.isometry import Isometry, geometry
from fdfed.studies.privacy.vectors import Array


def blinded(vector: Array, layout: TapLayout, *, key: StepKey, secret: BlindingSecret) -> Array:
    """What the coordinator receives of `vector` (size,) at the step `key`: (padded size,)."""
    return _isometry(layout, key, secret).blind(vector)


def opened(sent: Array, layout: TapLayout, *, key: StepKey, secret: BlindingSecret) -> Array:
    """The prototypes (size,) behind what any site sent at the step `key`: Qᵀ (y - t). t is what
    the map makes of zeros."""
    isometry = _isometry(layout, key, secret)
    t = isometry.blind(np.zeros(layout.size))
    return isometry.unblind(sent - t)[geometry(layout).places]


def _isometry(layout: TapLayout, key: StepKey, secret: BlindingSecret) -> Isometry:
    shape = geometry(layout)
    return Isometry(shape, secret.stream(key, shape.stream_bytes))
