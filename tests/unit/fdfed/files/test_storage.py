import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import typer

from fdfed.files.storage import storage_failure
from fdfed.process.terminal import run_command


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process grows beyond a kilobyte meanwhile."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def full_device() -> OSError:
    with pytest.raises(OSError, match="No space left") as err:
        Path("/dev/full").write_text("x")
    return err.value


def test_a_full_disk_is_named_with_what_to_do() -> None:
    failure = storage_failure(full_device())
    assert failure is not None
    assert "has no space left; free some, and start again" in str(failure)
    assert failure.exit_code == 7


def test_a_file_system_that_is_read_only_is_named_with_its_file() -> None:
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "/state/run/round.safetensors")
    assert str(storage_failure(error)).startswith(
        "/state/run/round.safetensors is on a file system that is mounted read-only"
    )


def test_a_disk_that_fails_a_library_of_another_language_is_known_too(
    small_files: None, tmp_path: Path
) -> None:
    with pytest.raises(safetensors.SafetensorError) as err:
        safetensors.numpy.save_file({"w": np.zeros(10_000)}, tmp_path / "model.safetensors")
    failure = storage_failure(err.value)
    assert failure is not None
    assert "may not be that large" in str(failure)


@pytest.mark.parametrize(
    "error",
    [ValueError("(os error 2)"), OSError(errno.ENOENT, "gone"), OSError("no number"), KeyError(28)],
)
def test_what_is_not_the_disk_stays_what_it_is(error: Exception) -> None:
    assert storage_failure(error) is None


def test_a_command_that_meets_a_full_disk_says_so_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = typer.Typer()

    @app.command()
    def fill() -> None:
        raise full_device()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fill"])
        assert run_command(app) == 7
    said = capsys.readouterr().err
    assert said.startswith("error: a file of the state folder has no space left")
    assert "Traceback" not in said
