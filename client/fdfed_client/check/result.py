"""What one check found: a line on the screen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "problem"]
"""`note`: nothing is wrong, or it could not be tried; `warning`: it works, and will not for long or
not well; `problem`: the agent cannot take part."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line: what was looked at, what was found, and what to do about it."""

    topic: str
    level: Level
    found: str
    remedy: str = ""
    exit_code: int = 0
    """Of a problem, by the contract of the commands: 2 configuration, 3 data, 4 connection or
    identity, 5 policy."""


def ok(topic: str, found: str) -> CheckResult:
    """A line that asks for nothing."""
    return CheckResult(topic, "ok", found)


def note(topic: str, found: str, remedy: str = "") -> CheckResult:
    """A line that is worth knowing."""
    return CheckResult(topic, "note", found, remedy)


def warning(topic: str, found: str, remedy: str) -> CheckResult:
    """A line about what works now."""
    return CheckResult(topic, "warning", found, remedy)


def problem(topic: str, found: str, remedy: str, *, exit_code: int = 4) -> CheckResult:
    """A line about what keeps the agent from taking part."""
    return CheckResult(topic, "problem", found, remedy, exit_code)


def exit_code_of(results: Iterable[CheckResult]) -> int:
    """The status of the command: that of the first problem, 0 without one."""
    return next((result.exit_code for result in results if result.level == "problem"), 0)
