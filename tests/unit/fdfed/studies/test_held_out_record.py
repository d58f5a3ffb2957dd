"""The record of the confirmatory patients is kept, and other data is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fdfed.data import write_phantoms
from fdfed.errors import DataError, InvalidInput
from fdfed.studies.held_out import DRAW, check_held_out, draw_held_out, write_held_out

REPOSITORY = Path(__file__).resolve().parents[4]
RECORD = REPOSITORY / "docs" / "studies" / "held_out.json"


def public_data() -> Path | None:
    for candidate in (os.environ.get("FDFED_DATA"), REPOSITORY.parent / "shared" / "data"):
        if candidate and Path(candidate, "tnbc", "images").is_dir():
            return Path(candidate)
    return None


def test_the_record_of_the_repository_holds_a_fifth_of_the_development_sites() -> None:
    document = json.loads(RECORD.read_text(encoding="utf-8"))
    assert document["draw"] == DRAW
    # Patients: tnbc 11, monuseg 44, busbra 102, busuclm 28.
    counts = {site: len(patients) for site, patients in document["sites"].items()}
    assert counts == {"tnbc": 2, "monuseg": 9, "busbra": 20, "busuclm": 6}


@pytest.mark.skipif(public_data() is None, reason="needs the real images of the four sites")
def test_the_real_images_draw_the_patients_of_the_record() -> None:
    data = public_data()
    assert data is not None
    check_held_out(RECORD, draw_held_out(data, ("tnbc",)))


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, tuple[str, ...]]:
    write_phantoms(tmp_path, "tnbc", images=12, size=32)
    return draw_held_out(tmp_path, ("tnbc",))


def test_a_record_is_read_back(tmp_path: Path, drawn: dict[str, tuple[str, ...]]) -> None:
    write_held_out(tmp_path / "record.json", drawn)
    check_held_out(tmp_path / "record.json", drawn)


def test_data_of_other_patients_is_refused(
    tmp_path: Path, drawn: dict[str, tuple[str, ...]]
) -> None:
    write_held_out(tmp_path / "record.json", drawn)
    with pytest.raises(DataError, match="not those that"):
        check_held_out(tmp_path / "record.json", {"tnbc": ("somebody else",)})
    with pytest.raises(DataError, match="busbra"):
        check_held_out(tmp_path / "record.json", {"busbra": ()})


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    for text in ("{}", "[]", "not JSON", '{"draw": "another", "sites": {}}'):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(InvalidInput):
            check_held_out(tmp_path / "record.json", {})
