"""`fdfed data check`, as a person and as a script see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fdfed.cli.main import app
from fdfed.data import write_phantoms
from fdfed.process.terminal import run_command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for site in ("tnbc", "busuclm"):
        write_phantoms(tmp_path / "data", site, images=6, size=32)
    return tmp_path / "data"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["fdfed", "data", "check", *words])
    monkeypatch.setenv("COLUMNS", "80")
    code = run_command(app)
    return code, *capsys.readouterr()


def test_sound_sites_are_shown_side_by_side_and_end_with_0(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(monkeypatch, capsys, str(data))
    assert (code, err) == (0, "")
    heading = next(line for line in out.splitlines() if "busuclm" in line)
    assert "tnbc" in heading
    for row in ("images", "patients", "32 × 32", "foreground", "grey level", "findings"):
        assert row in out
    assert "…" not in out
    assert "ok: nothing keeps these images from being used" in out


def test_findings_end_with_3_and_say_what_to_do(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = next((data / "tnbc" / "masks").iterdir())
    gone.unlink()
    code, out, err = run(monkeypatch, capsys, str(data))
    assert code == 3
    assert f"images/{gone.name}: has no mask" in err
    assert "add a mask of the same stem" in err
    assert "ok:" not in out
    assert "busuclm cannot be used" not in err


def test_what_may_be_a_leak_is_listed_and_is_a_persons_to_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_phantoms(tmp_path / "made", "tnbc", images=5, size=64)
    site = tmp_path / "site"
    for part in ("images", "masks"):
        (site / part).mkdir(parents=True)
        for number, path in enumerate(sorted((folder / part).iterdir())):
            Image.open(path).save(site / part / f"{number}.png")
        Image.open(site / part / "2.png").rotate(180).resize((48, 48)).save(site / part / "9.png")
    code, out, _ = run(monkeypatch, capsys, str(site))
    assert code == 0
    assert "Images of two patients" in out
    assert "site/2" in out
    assert "site/9" in out
    assert "site: nothing says whose the images are" in out
    assert "give both one name in patients.csv" in out


def test_json_is_the_whole_of_standard_output(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, str(data / "tnbc"), "--json")
    assert code == 0
    document = json.loads(out)
    assert document["usable"] is True
    assert document["sites"]["tnbc"]["phantoms"] is True
    assert len(document["sites"]["tnbc"]["images"]) == 6
    next((data / "tnbc" / "masks").iterdir()).unlink()
    code, out, err = run(monkeypatch, capsys, str(data / "tnbc"), "--json")
    assert code == 3
    assert json.loads(out)["usable"] is False
    assert "has no mask" in err


def test_a_folder_that_is_none_ends_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, str(tmp_path / "absent"))
    assert code == 3
    assert "is not a folder" in err


def test_many_sites_take_several_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        write_phantoms(tmp_path, f"site-{number}", images=1, size=32)
    code, out, _ = run(monkeypatch, capsys, str(tmp_path))
    assert code == 0
    assert out.count("Images and masks") == 2
    assert all(f"site-{number}" in out for number in range(5))
