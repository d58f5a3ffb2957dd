"""The ledger of a site."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdfed.errors import PrivacyBudgetExceeded
from fdfed.privacy.accounting import Release, epsilon_of
from fdfed.privacy.ledger import Budget, Entry, Ledger

RUN = "ab" * 8
DELTA = 1e-3
AMPLE = Budget(epsilon=100.0, delta=DELTA)


def entry_of(server_round: int = 1, *, steps: int = 10, sigma: float = 2.0) -> Entry:
    release = Release(noise_multiplier=sigma, sample_rate=0.1, steps=steps)
    return Entry(run_id=RUN, server_round=server_round, attempt=1, kind="weights", release=release)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy" / "ledger.json"


def test_every_release_is_composed_across_restarts(path: Path) -> None:
    after = [Ledger(path).reserve([entry_of(n)], AMPLE) for n in (1, 2, 3)]
    releases = [entry_of(n).release for n in (1, 2, 3)]
    assert after == [epsilon_of(releases[:n], delta=DELTA) for n in (1, 2, 3)]
    assert Ledger(path).entries() == tuple(entry_of(n) for n in (1, 2, 3))
    assert Ledger(path).spent(delta=DELTA) == after[-1]


def test_a_release_that_would_exceed_the_budget_is_refused_and_not_entered(path: Path) -> None:
    ledger = Ledger(path)
    spent = ledger.reserve([entry_of(1)], AMPLE)
    tight = Budget(epsilon=spent, delta=DELTA)
    with pytest.raises(PrivacyBudgetExceeded, match="budget is spent"):
        ledger.reserve([entry_of(2)], tight)
    assert ledger.entries() == (entry_of(1),)
    # Up to the budget is within it, to the last digit.
    assert ledger.reserve([], tight) == spent


def test_a_site_that_dies_between_entry_and_release_has_counted_it(path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from fdfed.privacy.accounting import Release
        from fdfed.privacy.ledger import Budget, Entry, Ledger

        release = Release(noise_multiplier=2.0, sample_rate=0.1, steps=10)
        entry = Entry(run_id="ab" * 8, server_round=1, attempt=1, kind="weights", release=release)
        Ledger(Path(sys.argv[1])).reserve([entry], Budget(epsilon=100.0, delta=1e-3))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    died = subprocess.run([sys.executable, "-c", program, str(path)], check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL
    assert Ledger(path).entries() == (entry_of(1),)
    # Asked again, the round is a new release, and is counted as one.
    Ledger(path).reserve([entry_of(1)], AMPLE)
    assert len(Ledger(path).entries()) == 2


def test_a_write_that_fails_leaves_the_ledger_and_lets_nothing_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(path).reserve([entry_of(1)], AMPLE)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        Ledger(path).reserve([entry_of(2)], AMPLE)
    monkeypatch.undo()
    assert Ledger(path).entries() == (entry_of(1),)


def test_the_ledger_is_on_the_disk_before_reserve_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(path.exists()), real(fd))[1])
    Ledger(path).reserve([entry_of(1)], AMPLE)
    # The content before the name, and then the folder that holds the name.
    assert synced == [False, True]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000))
def test_a_ledger_cut_short_anywhere_is_refused(path: Path, cut: int) -> None:
    path.unlink(missing_ok=True)
    Ledger(path).reserve([entry_of(1), entry_of(2)], AMPLE)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(PrivacyBudgetExceeded, match="cannot be used"):
        Ledger(path).reserve([entry_of(3)], AMPLE)
    with pytest.raises(PrivacyBudgetExceeded, match="releases nothing more"):
        Ledger(path).spent(delta=DELTA)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing(path: Path, place: int, bit: int) -> None:
    path.unlink(missing_ok=True)
    Ledger(path).reserve([entry_of(1), entry_of(2)], AMPLE)
    text = bytearray(path.read_bytes())
    text[place % len(text)] ^= 1 << bit
    path.write_bytes(text)
    try:
        found = Ledger(path).entries()
    except PrivacyBudgetExceeded:
        return
    # White space between two values may be another white space.
    assert found == (entry_of(1), entry_of(2))


def test_an_entry_taken_out_by_hand_is_noticed(path: Path) -> None:
    Ledger(path).reserve([entry_of(1), entry_of(2)], AMPLE)
    document = json.loads(path.read_text())
    document["entries"].pop()
    path.write_text(json.dumps(document))
    with pytest.raises(PrivacyBudgetExceeded, match="checksum"):
        Ledger(path).entries()


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "[" * 5000, '{"format": 2}', "\udcff"])
def test_a_file_that_is_no_ledger_is_refused(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PrivacyBudgetExceeded):
        Ledger(path).entries()


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(PrivacyBudgetExceeded, match="cannot be read"):
        Ledger(path).spent(delta=DELTA)


def test_without_a_file_nothing_was_spent(path: Path) -> None:
    assert Ledger(path).spent(delta=DELTA) == 0


def test_two_that_enter_at_once_lose_nothing(path: Path) -> None:
    # The lock is one of open files, so that it holds between threads as between processes.
    def enter(first: int) -> None:
        for number in range(first, first + 10):
            Ledger(path).reserve([entry_of(number)], AMPLE)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(enter, (1, 11)))
    found = sorted(entry.server_round for entry in Ledger(path).entries())
    assert found == list(range(1, 21))
