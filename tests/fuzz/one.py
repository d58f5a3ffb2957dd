"""Fuzzes one target in this process: `python -m tests.fuzz.one NAME [libFuzzer's arguments]`.

The process ends with the last input, or at the first that the parser neither takes nor refuses.
"""

from __future__ import annotations

import logging
import resource
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fdfed", "fdfed_server", "fdfed_client"]):
    from tests.fuzz.targets import TARGETS

_ROOM = 768 << 20
"""Bytes that an input may make the process grow by: what asks for more gets a MemoryError, which is
no refusal."""


def main() -> None:
    """Hands the rest of the command line to libFuzzer."""
    target = TARGETS[sys.argv[1]]
    # What broken files make Pillow and NumPy say is not what is looked for.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.accepts)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
