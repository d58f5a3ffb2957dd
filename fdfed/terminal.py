"""What the three commands share: exit codes, and how they log."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from rich.console import Console

from fdfed.errors import EXIT_BUG, EXIT_DONE, EXIT_INTERRUPTED, FdfedError

LogFormat = Literal["text", "json"]

_USAGE: Final = 2
_LOGGED: Final = ("site", "server_round", "attempt", "phase", "run_id", "code", "seconds")
"""Extra fields that a JSON line carries when a record has them."""


def run_command(command: Callable[[], object]) -> int:
    """The exit code of a command: 0 done, 2 to 6 the user's to solve, 130 interrupted, 1 our bug.

    An `FdfedError` becomes its message on standard error; anything else keeps its traceback.
    """
    errors = Console(stderr=True, soft_wrap=True)
    try:
        command()
    except FdfedError as err:
        errors.print(f"[bold red]error:[/] {_escaped(str(err))}", highlight=False)
        return err.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted; the last complete round is kept, start again to go on")
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_BUG if stop.code else EXIT_DONE
    return EXIT_DONE


def configure_logging(log_format: LogFormat, *, quiet: bool = False) -> None:
    """Sends our log to standard error, a line an event; JSON for machines, text for people."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    for name in ("fdfed", "fdfed_server", "fdfed_client"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.propagate = False


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: getattr(record, key) for key in _LOGGED if hasattr(record, key)}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
