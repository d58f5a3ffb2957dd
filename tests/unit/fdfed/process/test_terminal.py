"""Exit codes, error messages and log lines, which the three commands share."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest
import typer

from fdfed import errors
from fdfed.errors import FdfedError
from fdfed.process.log_tags import tag_run
from fdfed.process.terminal import configure_logging, run_command

LOGGERS = ("fdfed", "fdfed_server", "fdfed_client")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command whose body is `body`; its exit code."""

    def call(body: Callable[[], object], *arguments: str) -> int:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

        @app.command()
        def command(number: int = 0) -> None:
            body()

        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        return run_command(app)

    return call


@pytest.fixture
def logs() -> Iterator[None]:
    """Puts the loggers back as they were."""
    before = {
        name: (list(logger.handlers), logger.level, logger.propagate)
        for name in LOGGERS
        if (logger := logging.getLogger(name))
    }
    yield
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> None:
        raise error

    return body


def test_a_command_that_is_done_exits_with_0(run: Callable[..., int]) -> None:
    assert run(lambda: None) == 0


def test_an_exit_that_the_command_chose_is_kept(run: Callable[..., int]) -> None:
    assert run(raising(typer.Exit(0))) == 0
    assert run(raising(typer.Exit(5))) == 5


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("InvalidInput", 2),
        ("DataError", 3),
        ("ConnectionFailed", 4),
        ("CryptoError", 4),
        ("WireError", 4),
        ("QuorumNotMet", 4),
        ("RefusedByPolicy", 5),
        ("PrivacyBudgetExceeded", 6),
    ],
)
def test_an_error_of_ours_is_one_message_on_standard_error_and_its_documented_code(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    error: FdfedError = getattr(errors, name)("the size is 7; use a multiple of 16")
    assert run(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: the size is 7; use a multiple of 16\n"


@pytest.mark.parametrize(
    "text",
    ["sites [/a] and [bold]", r"C:\[x]", "a" * 300, "[", "two\nlines", "half\\", "[red]r[/red]"],
)
def test_a_message_is_shown_as_it_is(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert run(raising(errors.InvalidInput(text))) == 2
    assert capsys.readouterr().err == f"error: {text}\n"


@pytest.mark.parametrize("arguments", [("--number", "x"), ("--size", "3"), ("surplus",)])
def test_a_wrong_use_exits_with_2_and_says_how_to_get_help(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(lambda: None, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err
    assert "--help" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupted_command_exits_with_130_and_says_that_it_can_go_on(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert run(raising(error)) == 130
    err = capsys.readouterr().err
    assert "goes on after its last complete round" in err
    assert "Traceback" not in err


def test_our_bug_keeps_its_traceback_and_exits_with_1() -> None:
    code = (
        "import sys, typer\n"
        "from fdfed.process.terminal import run_command\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        "@app.command()\n"
        "def command() -> None:\n"
        "    {}['missing']\n"
        "sys.exit(run_command(app))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.rstrip().endswith("KeyError: 'missing'")


@pytest.mark.usefixtures("logs")
def test_every_line_of_the_json_log_is_an_object_with_the_events_own_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("json")
    log = logging.getLogger("fdfed_server.rounds")
    log.info('round %d:\n"%s" is ready — α', 3, "tnbc", extra={"site": "tnbc", "server_round": 3})
    log.info("an odd value", extra={"code": object(), "seconds": 1.5})
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception("it failed")
    first, odd, failed = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["message"] == 'round 3:\n"tnbc" is ready — α'
    assert (first["level"], first["logger"]) == ("info", "fdfed_server.rounds")
    assert (first["site"], first["server_round"]) == ("tnbc", 3)
    assert first["time"].endswith("+00:00")
    assert odd["seconds"] == 1.5
    assert "ValueError: inside" in failed["traceback"]


@pytest.mark.usefixtures("logs")
def test_every_line_of_a_run_names_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    tag_run("")  # an earlier test of this process may have left one
    log = logging.getLogger("fdfed_server.hub")
    log.info("before")
    tag_run("a1b2")
    try:
        log.info("during")
        log.info("of another", extra={"run_id": "c3"})
    finally:
        tag_run("")
    before, during, other = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert "run_id" not in before
    assert during["run_id"] == "a1b2"
    assert other["run_id"] == "c3"


@pytest.mark.usefixtures("logs")
def test_a_quiet_log_has_warnings_and_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", quiet=True)
    log = logging.getLogger("fdfed_client.agent")
    log.info("all is well")
    log.warning("mind the gap")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.rstrip().endswith("WARNING mind the gap")
    assert len(captured.err.splitlines()) == 1
