"""The audit log: what was written is there after any crash, and nothing done to it goes unseen."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from fdfed.audit import FIRST, AuditLog, exported, log, verify
from fdfed.audit.line import public_text
from fdfed.errors import CryptoError, InvalidInput

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


def filled(folder: Path, lines: int = 5, *, max_bytes: int = 10**6) -> Path:
    """A log that was closed in order; it has two lines more, of its opening and its end."""
    path = folder / "audit.log"
    with AuditLog(path, key=KEY, max_bytes=max_bytes) as opened:
        for number in range(lines):
            opened.append("out", "trained", bytes=number, sha256="0" * 64)
    return path


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_is_numbered_names_the_one_before_it_and_is_signed(tmp_path: Path) -> None:
    path = filled(tmp_path)
    lines = entries(path)
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["kind"] for line in lines] == ["opened", *["trained"] * 5, "closed"]
    assert lines[0]["previous"] == FIRST
    assert lines[0]["key"] == public_text(KEY)
    assert set(lines[1]) == {
        *("number", "time", "direction", "kind", "bytes", "sha256", "previous", "signature"),
    }
    verdict = verify(path, keys=[public_text(KEY)])
    assert (verdict.findings, verdict.notes, verdict.lines) == ([], [], 7)


def test_a_log_that_is_opened_again_goes_on_with_the_chain(tmp_path: Path) -> None:
    for _ in range(3):
        filled(tmp_path, lines=2)
    assert len(entries(tmp_path / "audit.log")) == 12
    assert verify(tmp_path).sound


def test_the_chain_goes_on_over_files_that_were_full(tmp_path: Path) -> None:
    filled(tmp_path, lines=12, max_bytes=1200)
    filled(tmp_path, lines=2, max_bytes=1200)
    names = sorted(path.name for path in tmp_path.glob("audit-*.log"))
    assert names[0] == "audit-000001.log"
    assert len(names) > 3
    verdict = verify(tmp_path / "audit.log")
    assert verdict.sound
    written = [line for line in exported(tmp_path) if '"trained"' in line]
    assert [json.loads(line)["bytes"] for line in written] == [*range(12), 0, 1]


def test_a_full_file_can_be_verified_alone_and_its_end_is_known(tmp_path: Path) -> None:
    filled(tmp_path, lines=6, max_bytes=1200)
    path = tmp_path / "audit-000002.log"
    assert verify(path, keys=[public_text(KEY)]).sound
    *lines, _ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines))
    assert "lacks its end" in verify(path).findings[0]


def test_files_that_went_to_an_archive_are_missed_unless_that_is_said(tmp_path: Path) -> None:
    filled(tmp_path, lines=12, max_bytes=1200)
    (tmp_path / "audit-000001.log").unlink()
    assert not verify(tmp_path).sound
    assert verify(tmp_path, partial=True).sound
    filled(tmp_path, lines=2, max_bytes=1200)
    assert verify(tmp_path, partial=True).sound


# --- whatever is done to a log is found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("written")
    filled(folder, lines=7, max_bytes=1500)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("audit*.[lh]*[gd]"))}


def verdict_of(folder: Path, files: dict[str, bytes]) -> bool:
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return verify(folder).sound


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def test_the_written_log_is_sound_and_has_several_files(
    written: dict[str, bytes], bench: Path
) -> None:
    assert len(written) > 3
    assert verdict_of(bench, written)


@given(data=st.data())
def test_any_byte_that_is_changed_is_found(
    data: st.DataObject, written: dict[str, bytes], bench: Path
) -> None:
    name = data.draw(st.sampled_from(sorted(written)))
    content = bytearray(written[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    assert not verdict_of(bench, written | {name: bytes(content)})


def joined(written: dict[str, bytes]) -> tuple[list[str], list[bytes]]:
    """All lines, and the name of the file that each one is in."""
    pairs = [
        (name, line)
        for name in sorted(n for n in written if n.endswith(".log"))
        for line in written[name].splitlines(keepends=True)
    ]
    return [name for name, _ in pairs], [line for _, line in pairs]


def spread(names: list[str], lines: list[bytes]) -> dict[str, bytes]:
    files = dict.fromkeys(names, b"")
    for name, line in zip(names, lines, strict=True):
        files[name] += line
    return files


@given(data=st.data(), kind=st.sampled_from(["delete", "swap", "repeat", "cut", "insert"]))
def test_any_line_that_is_removed_moved_repeated_or_cut_off_is_found(
    data: st.DataObject, kind: str, written: dict[str, bytes], bench: Path
) -> None:
    names, lines = joined(written)
    one = data.draw(st.integers(0, len(lines) - 1))
    if kind == "delete":
        names, lines = names[:one] + names[one + 1 :], lines[:one] + lines[one + 1 :]
    elif kind == "swap":
        other = data.draw(st.integers(0, len(lines) - 1).filter(lambda i: i != one))
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == "repeat":
        place = data.draw(st.integers(0, len(lines)))
        names.insert(place, names[min(place, len(names) - 1)])
        lines.insert(place, lines[one])
    elif kind == "cut":
        names, lines = names[:one], lines[:one]
    else:
        names.insert(one, names[one])
        lines.insert(one, data.draw(st.binary(max_size=40)).replace(b"\n", b"") + b"\n")
    kept = {name: content for name, content in written.items() if name.endswith(".head")}
    files = kept | spread(names, lines)
    try:
        assert not verdict_of(bench, files)
    except InvalidInput:
        assert not lines  # nothing is left to verify, which is told too


@given(data=st.data())
def test_a_log_that_is_cut_at_any_byte_is_found(
    data: st.DataObject, written: dict[str, bytes], bench: Path
) -> None:
    content = written["audit.log"]
    length = data.draw(st.integers(0, len(content) - 1))
    assert not verdict_of(bench, written | {"audit.log": content[:length]})


def test_a_log_without_its_head_or_with_anothers_is_found(
    written: dict[str, bytes], bench: Path
) -> None:
    lines_alone = {name: content for name, content in written.items() if name != "audit.head"}
    assert not verdict_of(bench, lines_alone)
    forged = log.Head(3, "0" * 64).to_text(OTHER)
    assert not verdict_of(bench, written | {"audit.head": forged})


def test_lines_that_a_stranger_signed_are_found_where_the_key_is_known(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with AuditLog(path, key=OTHER):
        pass
    assert verify(path).keys == [public_text(KEY), public_text(OTHER)]
    verdict = verify(path, keys=[public_text(KEY)])
    assert any("not a known one" in finding for finding in verdict.findings)
    assert verify(path, keys=[public_text(KEY), public_text(OTHER)]).sound


def test_a_log_put_back_whole_to_an_earlier_day_is_found_by_a_hash_that_was_noted(
    tmp_path: Path,
) -> None:
    path = filled(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.glob("audit.*")}
    filled(tmp_path)
    noted = verify(path).head
    assert verify(path, head=noted).sound
    for file, content in before.items():
        file.write_bytes(content)
    assert verify(path).sound  # the limit that the documents state
    assert "cut off or rewritten" in verify(path, head=noted).findings[0]


# --- crashes


@pytest.mark.parametrize("length", [1, 30, 200])
def test_a_line_that_a_crash_cut_off_stays_and_is_closed_with_a_marker(
    tmp_path: Path, length: int
) -> None:
    path = filled(tmp_path, lines=2)
    whole = path.read_bytes()
    cut = whole.splitlines()[1][:length]
    path.write_bytes(whole + cut)
    assert "cut off by a crash" in verify(path).notes[0]
    filled(tmp_path, lines=2)
    lines = path.read_bytes().splitlines()
    assert lines[4] == cut
    marker = json.loads(lines[5])
    assert (marker["kind"], marker["bytes"]) == ("torn", length)
    verdict = verify(path)
    assert (verdict.findings, verdict.notes) == ([], [])
    assert len(lines) == 4 + 1 + 1 + 4


def test_a_cut_line_cannot_be_passed_off_for_one_that_was_written(tmp_path: Path) -> None:
    path = filled(tmp_path, lines=2)
    path.write_bytes(path.read_bytes() + b'{"number":5')
    filled(tmp_path, lines=1)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = b'{"number":6\n'
    path.write_bytes(b"".join(lines))
    assert not verify(path).sound


KILLED = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ed25519
from fdfed.audit import AuditLog
key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
log = AuditLog(Path(sys.argv[1]), key=key, max_bytes=3000)
number = 0
while True:
    log.append("out", "trained", bytes=number)
    print(number, flush=True)
    number += 1
"""


def test_what_a_killed_process_had_reported_as_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 20:
                break
        child.send_signal(signal.SIGKILL)
        said = [int(line) for line in child.stdout.read().split()]
    last = said[-1] if said else 20
    with AuditLog(path, key=KEY):
        pass
    assert verify(path).sound
    kept = [json.loads(line).get("bytes") for line in exported(path) if '"trained"' in line]
    assert kept[: last + 1] == list(range(last + 1))


def test_a_line_that_could_not_be_written_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.log"
    opened = AuditLog(path, key=KEY)
    opened.append("out", "trained")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            opened.append("out", "evaluated")
    opened.append("out", "trained")
    opened.close()
    assert verify(path).sound


def test_a_log_that_was_altered_is_not_continued(tmp_path: Path) -> None:
    path = filled(tmp_path)
    *lines, _ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines))
    with pytest.raises(CryptoError, match=r"1 line\(s\) are missing at the end.*Nothing is sent"):
        AuditLog(path, key=KEY)
    path.unlink()
    with pytest.raises(CryptoError, match="not as it was written"):
        AuditLog(path, key=KEY)


def test_two_processes_cannot_write_to_one_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with AuditLog(path, key=KEY), pytest.raises(InvalidInput, match="already"):
        AuditLog(path, key=KEY)
    AuditLog(path, key=KEY).close()


def test_a_closed_log_takes_nothing_more(tmp_path: Path) -> None:
    opened = AuditLog(tmp_path / "audit.log", key=KEY)
    opened.close()
    opened.close()
    with pytest.raises(InvalidInput, match="closed"):
        opened.append("out", "trained")
    assert verify(tmp_path).sound


@pytest.mark.parametrize("name", ["signature", "previous", "number", "time"])
def test_a_detail_cannot_take_the_name_of_a_part_of_the_line(tmp_path: Path, name: str) -> None:
    with (
        AuditLog(tmp_path / "audit.log", key=KEY) as opened,
        pytest.raises(ValueError, match=f"cannot be called {name}"),
    ):
        opened.append("out", "trained", **{name: "x"})


def test_the_log_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        filled(tmp_path / "state", lines=8, max_bytes=1000)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    for path in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_lines_of_several_threads_are_whole_and_chained(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with AuditLog(path, key=KEY) as opened, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: opened.append("out", "trained", bytes=number), range(16)))
    assert verify(path).sound
    assert sorted(e["bytes"] for e in entries(path) if "bytes" in e) == list(range(16))
