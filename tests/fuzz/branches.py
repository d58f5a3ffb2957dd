"""Branch coverage of the parsers of foreign bytes: `python -m tests.fuzz.branches`.

Runs the unit tests that hand them bytes, the replay of the corpus among them, and prints a table;
fails if the parsers together have less than `REQUIRED` of their branches taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS

ROOT: Final = Path(__file__).parents[2]
REQUIRED: Final = 0.95
TESTS: Final = (
    "tests/unit/test_foreign_bytes.py",
    "tests/unit/test_oversized_claims.py",
    "tests/unit/fdfed/exchange",
    "tests/unit/fdfed/audit",
    "tests/unit/fdfed/data/test_dicom.py",
    "tests/unit/fdfed/data/test_folder.py",
    "tests/unit/fdfed/data/test_outlines.py",
    "tests/unit/fdfed/data/test_pictures.py",
    "tests/unit/fdfed/data/test_phantoms.py",
    "tests/unit/fdfed/evaluation/test_results.py",
    "tests/unit/fdfed/config/test_config.py",
    "tests/unit/fdfed/config/test_hostile_config.py",
    "tests/unit/fdfed/membership/test_consortium.py",
    "tests/unit/fdfed/membership/test_enrolment_messages.py",
    "tests/unit/fdfed/wire/test_expansion.py",
    "tests/unit/fdfed/wire/test_flat_array.py",
    "tests/unit/fdfed/test_release.py",
    "tests/unit/fdfed/membership/test_roster_entries.py",
    "tests/unit/fdfed/membership/test_roster_keeper.py",
    "tests/unit/fdfed/files/test_strict_json.py",
    "tests/unit/fdfed/privacy/test_ledger.py",
    "tests/unit/fdfed/privacy/test_masking_keys.py",
    "tests/unit/fdfed/config/test_privacy_plan.py",
    "tests/unit/fdfed/wire/test_wire.py",
    "tests/unit/fdfed/wire/test_wire_masked.py",
    "tests/unit/fdfed/wire/test_wire_refusals.py",
    "tests/unit/fdfed/training/test_model_file.py",
    "tests/unit/fdfed/training/test_site_state.py",
    "tests/unit/fdfed_client/egress",
    "tests/unit/fdfed_client/test_exchange_connection.py",
    "tests/unit/fdfed_client/test_exchange_stream_answers.py",
    "tests/unit/fdfed_client/test_group_secrets.py",
    "tests/unit/fdfed_client/test_site_config.py",
    "tests/unit/fdfed_server/test_enrolment_desk.py",
    "tests/unit/fdfed_server/test_exchange_conversation.py",
    "tests/unit/fdfed_server/test_flower_surface.py",
    "tests/unit/fdfed_server/test_provision.py",
    "tests/unit/fdfed_server/test_run_state.py",
    "tests/unit/fdfed_server/test_status.py",
    "tests/integration/test_bad_input.py",
    "tests/integration/test_exchange_stream.py",
)


def table(files: dict[str, dict[str, dict[str, float]]]) -> tuple[str, float]:
    """The table in Markdown, and the share over all files."""
    lines = ["| parser | branches | taken |", "|---|--:|--:|"]
    taken = known = 0.0
    for name, entry in sorted(files.items()):
        found = entry["summary"]
        taken, known = taken + found["covered_branches"], known + found["num_branches"]
        if found["num_branches"]:
            share = found["covered_branches"] / found["num_branches"]
            lines.append(f"| `{name}` | {found['num_branches']} | {share:.0%} |")
    lines.append(f"| **all** | **{known:.0f}** | **{taken / known:.1%}** |")
    return "\n".join(lines), taken / known


def main() -> int:
    """0 if enough branches are taken and every test passes."""
    parsers = sorted({path for target in TARGETS.values() for path in target.parsers})
    with tempfile.TemporaryDirectory() as folder:
        data, report = f"--data-file={folder}/data", Path(folder) / "report.json"
        run = [sys.executable, "-m", "coverage", "run", data, "--branch"]
        tests = [f"--include={','.join(parsers)}", "-m", "pytest", "-q", *TESTS]
        status = subprocess.run([*run, *tests], cwd=ROOT, check=False).returncode
        written = [sys.executable, "-m", "coverage", "json", data, "-q", "-o", str(report)]
        subprocess.run(written, cwd=ROOT, check=True)
        text, share = table(json.loads(report.read_text())["files"])
    print(text)
    return status or int(share < REQUIRED)


if __name__ == "__main__":
    sys.exit(main())
