"""What the three commands share: exit codes, and how they log."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import click
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from fdfed.errors import EXIT_DONE, EXIT_INTERRUPTED, FdfedError
from fdfed.files.storage import storage_failure
from fdfed.process.log_tags import RunTag

if TYPE_CHECKING:
    from fdfed.evaluation.results import RunResults

LogFormat = Literal["text", "json"]

_LOGGED: Final = ("site", "server_round", "attempt", "phase", "run_id", "code", "seconds")
"""Extra fields that a JSON line carries when a record has them."""


def run_command(app: typer.Typer) -> int:
    """The exit code of a command: 0 done, 2 to 7 the user's to solve, 130 interrupted, 1 our bug.

    An `FdfedError` becomes its message on standard error, and so does a disk that is full or may
    not be written; anything else keeps its traceback.
    """
    errors = Console(stderr=True, soft_wrap=True)
    try:
        code = app(standalone_mode=False)
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except FdfedError as err:
        errors.print("error:", style="bold red", end=" ")
        # A message can hold anything, brackets that look like markup too.
        errors.print(str(err), markup=False, highlight=False)
        return err.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = EXIT_INTERRUPTED
    except Exception as err:
        failure = storage_failure(err)
        if failure is None:
            raise
        errors.print("error:", style="bold red", end=" ")
        errors.print(str(failure), markup=False, highlight=False)
        return failure.exit_code
    # Typer catches Ctrl-C itself and hands on its code alone.
    if code == EXIT_INTERRUPTED:
        errors.print("interrupted; a run goes on after its last complete round when started again")
    return code if isinstance(code, int) else EXIT_DONE


def configure_logging(
    log_format: LogFormat, *, quiet: bool = False, console: Console | None = None
) -> None:
    """Sends our log to standard error, a line an event; JSON for machines, text for people.

    Args:
        console: a terminal that shows progress bars; lines of the log then appear above them.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if console is not None:
        handler = RichHandler(console=console, show_path=False)
    elif log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    handler.addFilter(RunTag())
    for name in ("fdfed", "fdfed_server", "fdfed_client"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.propagate = False


def scores_table(results: RunResults) -> Table:
    """The test scores of a run's sites, as percent."""
    title = "Test scores" + (" on phantoms" if results.phantoms else "")
    table = Table(title=title, title_justify="left")
    table.add_column("site")
    for heading in ("Dice", "IoU", "training images", "test images"):
        table.add_column(heading, justify="right")
    for name, site in results.sites.items():
        scores = ("withheld" if v is None else f"{100 * v:.1f} %" for v in (site.dice, site.iou))
        table.add_row(name, *scores, str(site.n_train), str(site.n_test))
    return table


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
        return json.dumps(entry, ensure_ascii=False, default=str)
