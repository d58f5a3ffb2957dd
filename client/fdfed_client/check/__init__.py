"""`fdfed-client check`: everything that can keep a hospital from taking part, and what to do."""

from fdfed_client.check.result import CheckResult, Level, exit_code_of
from fdfed_client.check.run import run_checks
from fdfed_client.check.screen import show

__all__ = ["CheckResult", "Level", "exit_code_of", "run_checks", "show"]
