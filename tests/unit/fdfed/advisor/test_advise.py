"""`fdfed advise`, on phantoms."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fdfed.advisor import advise, load_advice, load_summary
from fdfed.advisor.advice import shift_of
from fdfed.cli.main import app
from fdfed.data import write_phantoms
from fdfed.errors import InvalidInput
from fdfed.networks import create_network
from fdfed.process.terminal import run_command
from fdfed.training.model_file import ModelHeader, save_model

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fdfed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fdfed` in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["fdfed", *map(str, arguments)])
        code = run_command(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of three sites, and a model for them."""
    folder = tmp_path_factory.mktemp("consortium")
    for site in ("tnbc", "monuseg", "busbra"):
        write_phantoms(folder / "data", site, images=20, size=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_network("unet", in_channels=3, width=4)
    header = ModelHeader(
        network="unet",
        width=4,
        norm="batch",
        in_channels=3,
        size=32,
        taps=network.tap_names,
        phantoms=True,
    )
    save_model(folder / "model.safetensors", network.state_dict(), header)
    return folder


def given(folder: Path, *more: object) -> tuple[object, ...]:
    return ("advise", "--data", folder / "data", "--model", folder / "model.safetensors", *more)


def test_candidates_are_ranked_and_nothing_is_foretold_without_a_calibration(
    fdfed: Command, folder: Path, tmp_path: Path
) -> None:
    code, out, err = fdfed(*given(folder, "--base", "tnbc", "--out", tmp_path))
    assert (code, err) == (0, "")
    advice = load_advice(tmp_path / "advice.json")
    assert [candidate.site for candidate in advice.ranking] == ["monuseg", "busbra"]
    assert all(candidate.forecast is None for candidate in advice.ranking)
    assert out.count("no forecast without a calibration file") == 2
    assert "(phantoms)" in out
    assert set(advice.shifts) == {"tnbc busbra", "tnbc monuseg", "busbra monuseg"}
    assert "tnbc – monuseg" in (tmp_path / "advice.svg").read_text()


def test_a_hospital_elsewhere_hands_on_its_summary_and_nothing_more(
    fdfed: Command, folder: Path, tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    code, out, _ = fdfed(*given(folder, "--sites", "busbra", "--out", there))
    assert code == 0
    assert "Summaries:" in out
    summary = there / "summaries" / "busbra.json"
    code, _, _ = fdfed(
        *given(folder, "--sites", "tnbc", "--base", "tnbc", "--summaries", summary, "--out", here)
    )
    assert code == 0
    fdfed(*given(folder, "--base", "tnbc", "--out", tmp_path / "all"))
    apart, together = (load_advice(path / "advice.json") for path in (here, tmp_path / "all"))
    assert shift_of(apart, "tnbc", "busbra") == shift_of(together, "busbra", "tnbc")


def test_what_cannot_be_compared_is_refused_with_what_to_do(
    fdfed: Command, folder: Path, tmp_path: Path
) -> None:
    cases = [
        (("advise", "--base", "tnbc"), "--summaries"),
        (("advise", "--data", folder / "data"), "--data needs --model"),
        (given(folder, "--base", "elsewhere"), "it needs one of the base"),
        (given(folder, "--base", "tnbc", "--calibration", tmp_path / "none"), "cannot be read"),
    ]
    for arguments, said in cases:
        code, _, err = fdfed(*arguments, "--out", tmp_path)
        assert code == 2
        assert said in err


def test_phantoms_and_images_are_never_compared(
    fdfed: Command, folder: Path, tmp_path: Path
) -> None:
    fdfed(*given(folder, "--out", tmp_path))
    tnbc, busbra = (
        load_summary(tmp_path / "summaries" / f"{site}.json") for site in ("tnbc", "busbra")
    )
    with pytest.raises(InvalidInput, match="compare like with like"):
        advise("tnbc", [tnbc, busbra.model_copy(update={"phantoms": False})])
    with pytest.raises(InvalidInput, match="one site twice"):
        advise("tnbc", [tnbc, tnbc])


def test_a_calibration_gives_a_number_with_an_interval(
    fdfed: Command, folder: Path, tmp_path: Path
) -> None:
    names = [f"s{number}" for number in range(6)]
    rows = [
        {
            "base": a,
            "novel": b,
            "phantoms": True,
            "change": 0.001 * number,
            "shift": 0.3 * number,
            "share": 0.5,
            "histogram": 0.1,
            "classifier": 0.5,
        }
        for number, (a, b) in enumerate((a, b) for a in names for b in names if a < b)
    ]
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"made_by": "a test", "observations": rows}))
    code, out, _ = fdfed(*given(folder, "--base", "tnbc", "--calibration", path, "--out", tmp_path))
    assert code == 0
    assert "80 % interval" in out
    (near, _) = load_advice(tmp_path / "advice.json").ranking
    assert near.forecast is not None
    assert near.forecast.pairs == 15
