"""Makes the corpus: for each target a few small valid inputs, and some of each kind of invalid.

    python -m tests.fuzz.seeds

They hold nothing of any patient, and keys of the tests alone. What was sealed or signed by a curve
is random, so a second run changes some of the files; inputs that a fuzzer found are left alone.
"""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.seeds import exchange, files, joining, medical, pictures, records, trust
from tests.fuzz.target import CORPUS

MAKERS = (
    exchange.exchange,
    trust.trust,
    joining.joining,
    records.records,
    files.files,
    files.surface,
    pictures.pictures,
    medical.medical,
)


def main() -> None:
    """Writes every seed into its target's folder."""
    for make in MAKERS:
        for target, name, data in make():
            path: Path = CORPUS / target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


if __name__ == "__main__":
    main()
