"""The hospital's web application: the shared frame; nothing can be done here but look."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from fastapi import FastAPI

from fdfed.console import Access, console_app
from fdfed_client.console.board import AgentBoard

_STATIC: Final = Path(__file__).parent / "static"


def agent_console(
    board: AgentBoard, *, site: str, access: Access, hosts: Collection[str]
) -> FastAPI:
    """The application; `hosts` are the names under which a browser may ask for it."""
    return console_app(
        board,
        access=access,
        hosts=hosts,
        templates="fdfed_client.console",
        context={"site": site},
        static=_STATIC,
    )
