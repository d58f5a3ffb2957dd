"""Tokens and sessions of a console."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdfed.console import Access, Role
from fdfed.console.access import SESSION_SECONDS


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def token(access: Access, role: Role) -> str:
    return access.token_files[role].read_text()


def test_the_tokens_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first = Access(tmp_path / "console")
    kept = {role: token(first, role) for role in first.token_files}
    second = Access(tmp_path / "console")
    assert {role: token(second, role) for role in second.token_files} == kept
    assert kept["viewer"] != kept["operator"]
    assert len(kept["viewer"].strip()) >= 40
    for path in first.token_files.values():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "console").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_token_opens_a_session_of_its_role_until_logout(tmp_path: Path, role: Role) -> None:
    access = Access(tmp_path)
    session = access.login(token(access, role))
    assert access.role_of(session) == role
    access.logout(session)
    assert access.role_of(session) is None


@pytest.mark.parametrize("wrong", ["", " ", "x" * 43, "é" * 10])
def test_no_other_text_opens_a_session(tmp_path: Path, wrong: str) -> None:
    access = Access(tmp_path)
    assert access.login(wrong) is None
    assert access.role_of(wrong) is None
    assert access.role_of(None) is None


def test_a_session_ends_by_itself(tmp_path: Path) -> None:
    clock = Clock()
    access = Access(tmp_path, clock=clock)
    session = access.login(token(access, "viewer"))
    clock.now = SESSION_SECONDS - 1
    assert access.role_of(session) == "viewer"
    clock.now = SESSION_SECONDS
    assert access.role_of(session) is None


def test_the_oldest_sessions_give_way_so_that_memory_is_bounded(tmp_path: Path) -> None:
    clock = Clock()
    access = Access(tmp_path, clock=clock)
    sessions = []
    for _ in range(100):
        clock.now += 1
        sessions.append(access.login(token(access, "viewer")))
    alive = [session for session in sessions if access.role_of(session) is not None]
    assert alive == sessions[-64:]


def test_two_consoles_of_one_host_do_not_take_each_other_s_session(tmp_path: Path) -> None:
    here, there = Access(tmp_path / "here"), Access(tmp_path / "there")
    assert here.cookie != there.cookie
    assert here.cookie == Access(tmp_path / "here").cookie, "a restart does not litter the jar"
