"""JSON that others wrote: read without surprises, or refused with one kind of error."""

from __future__ import annotations

import json
from typing import Any

from fdfed.errors import InvalidInput


def loads(text: str | bytes, *, source: str) -> Any:
    """The value that `text` holds.

    Departure from `json.loads`: an object that gives one key twice is refused, since two readers
    could take one each for the truth.

    Args:
        text: JSON; bytes are read as UTF-8 alone.
        source: what the text is, for the message.

    Raises:
        InvalidInput: if it is no JSON, is nested too deep, gives a key twice, or holds an integer
            of more digits than Python converts (4,300).
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as err:
        raise InvalidInput(f"{source} is not valid JSON: {err}") from err


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object gives one key twice")
    return found
