"""Why a file cannot serve as image or mask."""

from __future__ import annotations


class UnusablePicture(Exception):
    """A file that cannot serve as image or mask; becomes a `Finding` or a `DataError`."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy
