"""The mark by which a folder of phantoms is told from a folder of patients' images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

MARKER: Final = "PHANTOMS.json"
_PREFIX: Final = "phantom_"


def is_phantom_folder(folder: Path) -> bool:
    """Whether `write_phantoms` wrote the site's folder to its end."""
    return (folder / MARKER).is_file()


def is_phantom_file(name: str) -> bool:
    """Whether an image or mask is named as `write_phantoms` names its own."""
    return name.startswith(_PREFIX)


def phantom_name(index: int) -> str:
    """Stem of the phantom with this number, from 0."""
    return f"{_PREFIX}{index:04d}"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What the folder's phantoms were made from; `None` without a readable mark."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_marker(folder: Path, content: dict[str, Any]) -> None:
    """Mark the folder; written last, so that a mark means a complete folder."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (folder / MARKER).write_text(text, encoding="utf-8")
