"""Names of our own HTTP headers."""

from __future__ import annotations

from typing import Final

PROTOCOL_HEADER: Final = "x-fdfed-protocol"
"""Of the answer to /health: the formats that a coordinator speaks."""
ROOM_HEADER: Final = "x-fdfed-room"
"""Of a question: how many bytes of objects the answer may bring."""
