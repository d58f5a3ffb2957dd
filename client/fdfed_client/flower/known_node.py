"""Which node this agent was, so that one that was killed is back at once.

Flower counts a node that says no goodbye as online until its heartbeats are missed, and refuses its
successor so long. A heartbeat under the old number says that the node lives, which is true: it is
the same site, with the same key and the same folder.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from fdfed.files import atomic_file

_MAX_BYTES: Final = 200


class KnownNode:
    """The node id that was last given to this site, in a file of its state folder.

    A copy of the folder is another folder and knows nothing: two agents with one identity must not
    pass for one.

    Args:
        state: the agent's folder; no other process uses it.
    """

    def __init__(self, state: Path) -> None:
        self._file = state / "flower-node"
        self._state = state

    def load(self) -> int | None:
        """The id; None where there is none, or it came with a copy."""
        with suppress(OSError, ValueError):
            with self._file.open("rb") as file:
                node_id, folder = file.read(_MAX_BYTES).decode("ascii").split()
            if folder == self._folder():
                return int(node_id)
        return None

    def keep(self, node_id: int) -> None:
        """Remembers the id. A folder that cannot be written costs no more than a later return."""
        with suppress(OSError):
            atomic_file.write_text(self._file, f"{node_id} {self._folder()}\n")

    def _folder(self) -> str:
        found = self._state.stat()
        return f"{found.st_dev}:{found.st_ino}"
