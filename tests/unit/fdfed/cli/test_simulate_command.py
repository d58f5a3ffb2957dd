"""`fdfed simulate`, and what a newcomer reads first."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fdfed.cli.main import app
from fdfed.process.terminal import run_command
from fdfed_server.run_state import load_state

Command = Callable[..., tuple[int, str, str]]
TINY = ("--rounds", "2", "--steps", "1", "--size", "32", "--width", "2", "--batch", "2")


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Puts the loggers back as they were."""
    loggers = [logging.getLogger(name) for name in ("fdfed", "fdfed_server", "fdfed_client")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def fdfed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fdfed` in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["fdfed", *map(str, arguments)])
        code = run_command(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_first_help_names_the_commands_and_a_line_to_type(fdfed: Command) -> None:
    code, out, err = fdfed("--help")
    assert (code, err) == (0, "")
    for text in ("simulate", "predict", "never images", "built-in phantoms", "--sites tnbc"):
        assert text in out
    assert fdfed()[0] == 2


def test_the_help_of_simulate_says_what_it_needs_and_what_it_leaves(fdfed: Command) -> None:
    code, out, _ = fdfed("simulate", "--help")
    assert code == 0
    for text in (
        *("results.json", "model.safetensors", "rounds.csv", "report.html", "phantoms"),
        *("--sites", "--data", "--rounds", "--out", "one folder per site", "resumes"),
        *("fedavg", "fedprox", "fedbn", "local", "pooled", "fd+exch"),
    ):
        assert text in out, text


def test_the_version_is_told(fdfed: Command) -> None:
    from fdfed import __version__

    assert fdfed("--version") == (0, f"fdfed {__version__}\n", "")


def test_a_run_on_phantoms_leaves_its_files_and_says_that_they_are_phantoms(
    fdfed: Command, tmp_path: Path
) -> None:
    out_folder = tmp_path / "a [strange] name"
    code, out, err = fdfed("simulate", "--sites", "a,b", *TINY, "--out", out_folder)
    assert (code, err) == (0, "")
    assert "Test scores on phantoms" in out
    assert f"Report: {out_folder}/report.html" in out
    assert "round 2" in out
    assert json.loads((out_folder / "results.json").read_text())["phantoms"] is True
    code, out, _ = fdfed("simulate", "--sites", "a,b", *TINY, "--out", out_folder)
    assert code == 0
    assert "Resuming after round 2 of 2." in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--strategy", "fedsgd"), "strategy"),
        (("--loss", "none"), "loss"),
        (("--network", "vnet"), "vnet"),
        (("--size", "40"), "multiple of 16"),
        (("--sites", "a,a"), "sites names one site twice: a"),
        (("--sites", "A B"), "sites.0"),
        (("--rounds", "0"), "rounds"),
        (("--strategy", "local", "--loss", "fd+exch"), "no peers to exchange with"),
        (("--config", "missing.toml"), "missing.toml does not exist"),
        (("--rounds", "x"), "--rounds"),
        (("--threads", "0"), "--threads"),
        (("--unknown", "1"), "--unknown"),
    ],
)
def test_what_cannot_be_run_exits_with_2_and_one_message_that_names_it(
    fdfed: Command, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    code, out, err = fdfed("simulate", *arguments, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert text in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_exits_with_3(fdfed: Command, tmp_path: Path) -> None:
    code, _, err = fdfed("simulate", "--data", tmp_path, "--out", tmp_path / "out")
    assert code == 3
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_configuration_file_is_read_and_options_go_before_it(
    fdfed: Command, tmp_path: Path
) -> None:
    config = tmp_path / "federation.toml"
    config.write_text(
        '[server]\nbind = "127.0.0.1"\n[run]\nsites = ["a"]\nrounds = 9\nseed = 5\n'
        'strategy = "fedavg"\n'
    )
    code, _, _ = fdfed("simulate", "--config", config, *TINY, "--quiet", "--out", tmp_path / "out")
    assert code == 0
    used = json.loads((tmp_path / "out" / "results.json").read_text())["config"]
    assert (used["sites"], used["rounds"], used["seed"]) == (["a"], 2, 5)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("rounds = 3\n", "rounds"),
        ("[runs]\nrounds = 3\n", "runs"),
        ("run = 3\n", "no table"),
        ("[run]\nround = 3\n", "round"),
        ("[run\n", "not valid TOML"),
    ],
)
def test_a_setting_in_the_wrong_place_is_refused_and_not_passed_over(
    fdfed: Command, tmp_path: Path, content: str, text: str
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(content)
    code, _, err = fdfed("simulate", "--config", config, "--out", tmp_path / "out")
    assert code == 2
    assert str(config) in err
    assert text in err


def test_ctrl_c_leaves_a_run_that_can_go_on_and_exits_with_130(tmp_path: Path) -> None:
    # A shell that starts a job in the background lets it ignore Ctrl-C; a terminal does not.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from fdfed.cli import main; main()"
    )
    command = [sys.executable, "-c", start, "simulate", "--sites", "a,b", "--out", str(tmp_path)]
    options = ["--size", "32", "--width", "2", "--batch", "2", "--strategy", "fedavg"]
    plan = [*options, "--rounds", "5000", "--steps", "1"]
    process = subprocess.Popen(
        [*command, *plan], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("round 2 "):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "goes on after its last complete round" in err
    assert "Traceback" not in err
    assert not (tmp_path / "results.json").exists()
    state = load_state(tmp_path / "state" / "run")
    assert state is not None
    assert 2 <= state.completed_rounds == len(state.history) < 5000
