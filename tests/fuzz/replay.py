"""Hands every input of some folders to a target: `python -m tests.fuzz.replay NAME FOLDER…`."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main() -> None:
    """An input that is neither taken nor refused ends it with a traceback."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target, folders = TARGETS[sys.argv[1]], sys.argv[2:]
    for path in sorted(path for folder in folders for path in Path(folder).iterdir()):
        target.accepts(path.read_bytes())


if __name__ == "__main__":
    main()
