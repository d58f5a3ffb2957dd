"""Attacks on what leaves a hospital, with and without each defence: one attack, one module.

Attacks are pure functions of what an attacker sees and knows. `fdfed study privacy` composes them.
"""

from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Setting
from fdfed.studies.privacy.study import load_rows, run_privacy_study
from fdfed.studies.privacy.study_files import write_privacy_page, write_privacy_study

__all__ = [
    "Row",
    "Setting",
    "load_rows",
    "run_privacy_study",
    "write_privacy_page",
    "write_privacy_study",
]
