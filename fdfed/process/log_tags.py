"""The run that a process is working on, for every line of its log."""

from __future__ import annotations

import logging

_run_id = ""


def tag_run(run_id: str) -> None:
    """From now on this process's JSON log lines carry `run_id`, whoever writes them."""
    global _run_id  # noqa: PLW0603 - a process works on one run, and logging is the process's
    _run_id = run_id


class RunTag(logging.Filter):
    """Gives a record the run of its process, unless it names one itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _run_id and not hasattr(record, "run_id"):
            record.run_id = _run_id
        return True
