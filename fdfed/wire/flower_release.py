"""The one release of Flower that both sides were written and tested against.

Most of Flower outside `flwr.app`, `flwr.clientapp` and `flwr.serverapp` is private and moves with
every release. Each side's private imports live in its folder `flower`, and a contract test holds
every symbol to the signature that is relied on. Importing this module, which both folders do first,
stops a wrong release at the door instead of half-way through a run.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from fdfed.errors import InvalidInput

FLOWER_VERSION: Final = "1.41.0"


def require_pinned_flower(installed: str) -> None:
    """Nothing, if `installed` is the release that this code was written against.

    Raises:
        InvalidInput: for any other release, newer ones included.
    """
    if installed != FLOWER_VERSION:
        raise InvalidInput(
            f"flwr {installed} is installed, but this version of fdfed calls private parts of flwr "
            f"{FLOWER_VERSION}, which change between releases. Install it with "
            f"`pip install flwr=={FLOWER_VERSION}`."
        )


require_pinned_flower(version("flwr"))
