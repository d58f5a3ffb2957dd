"""Which versions of the formats are spoken here, in the words in which a coordinator says so."""

from __future__ import annotations

from typing import Final

from fdfed.exchange import PROTOCOL_VERSION
from fdfed.wire.parcel import PARCEL_FORMAT
from fdfed.wire.record import FORMAT

SPOKEN: Final = f"wire={FORMAT} parcel={PARCEL_FORMAT} exchange={PROTOCOL_VERSION}"
"""Of the formats alone, not of the release: who scans for a known fault learns nothing."""
