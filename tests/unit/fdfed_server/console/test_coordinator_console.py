"""The coordinator's console over HTTP: who sees what, who may act, and what a browser is told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from fdfed.config import RunPlan
from fdfed.console import Access, Role
from fdfed.evaluation.results import RoundRecord, SiteRound, Traffic
from fdfed_server.console import Board, coordinator_console
from fdfed_server.hub import ExchangeHub
from fdfed_server.run_control import RunControl
from fdfed_server.terms import cross_site_terms

PLAN = RunPlan(sites=("tnbc", "monuseg"), rounds=4, phantoms=True)
ACTIONS = ("/api/pause", "/api/resume", "/api/stop")
OURS = {"x-fdfed-console": "1"}


class Console:
    """A console, what it acts on, and a browser's place before it."""

    def __init__(self, folder: Path) -> None:
        self.stops = 0
        self.noted: list[str] = []
        self.disk_is_full = False
        self.control = RunControl(self._stop)
        self.hub = ExchangeHub(cross_site_terms)
        self.online: set[str] = set()
        self.certificate_ends: dict[str, datetime] = {}
        self.board = Board(
            PLAN,
            run_id="r1",
            history=(),
            hub=self.hub.snapshot,
            online=lambda: self.online,
            roster_version=lambda: 3,
            certificate_ends=lambda: self.certificate_ends,
            paused=lambda: self.control.paused,
        )
        self.access = Access(folder)
        app = coordinator_console(
            self.board,
            access=self.access,
            control=self.control,
            hosts=("testserver",),
            note=self._note,
        )
        self.browser = TestClient(app)

    def _note(self, action: str) -> None:
        if self.disk_is_full:
            raise OSError(28, "No space left on device")
        self.noted.append(action)

    def _stop(self) -> None:
        self.stops += 1

    def login(self, role: Role) -> None:
        token = self.access.token_files[role].read_text()
        answer = self.browser.post("/login", data={"token": token}, follow_redirects=False)
        assert answer.status_code == 303


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path)
    yield made
    made.hub.close()


def test_without_a_session_there_is_a_login_and_nothing_else(console: Console) -> None:
    assert console.browser.get("/", follow_redirects=False).headers["location"] == "/login"
    for path in ("/api/state", "/api/events"):
        assert console.browser.get(path).status_code == 401
    for path in ACTIONS:
        assert console.browser.post(path, headers=OURS).status_code == 401
    assert console.browser.get("/docs").status_code == 404
    assert console.browser.get("/openapi.json").status_code == 404


def test_a_wrong_token_is_refused_and_named_in_the_log(
    console: Console, caplog: pytest.LogCaptureFixture
) -> None:
    answer = console.browser.post("/login", data={"token": "guess"})
    assert answer.status_code == 403
    assert "not one of this console" in answer.text
    assert "a token that is none of ours" in caplog.text
    assert "guess" not in caplog.text
    assert console.browser.post("/login", content=b"token=" + b"x" * 5000).status_code == 413


def test_a_viewer_sees_the_run_and_may_not_act(console: Console) -> None:
    console.login("viewer")
    assert "Stop the run" not in console.browser.get("/").text
    assert console.browser.get("/api/state").json()["run"]["id"] == "r1"
    for path in ACTIONS:
        assert console.browser.post(path, headers=OURS).status_code == 403
    assert not console.control.paused
    assert console.stops == 0
    assert console.noted == []


def test_an_action_that_cannot_be_noted_is_not_done(console: Console) -> None:
    console.login("operator")
    console.disk_is_full = True
    with pytest.raises(OSError, match="No space left"):
        console.browser.post("/api/pause", headers=OURS)
    assert not console.control.paused


def test_an_operator_pauses_resumes_and_stops(console: Console) -> None:
    console.login("operator")
    assert "Stop the run" in console.browser.get("/").text
    before = console.browser.get("/api/state").json()
    assert console.browser.post("/api/pause", headers=OURS).status_code == 204
    assert console.control.paused
    now = console.board.version
    assert now > before["version"]
    assert console.browser.get("/api/state").json()["run"]["paused"] is True
    assert console.browser.post("/api/resume", headers=OURS).status_code == 204
    assert not console.control.paused
    assert console.browser.post("/api/stop", headers=OURS).status_code == 204
    assert console.stops == 1
    assert console.noted == ["pause", "resume", "stop"]


def test_a_form_on_another_page_cannot_act(console: Console) -> None:
    console.login("operator")
    assert console.browser.post("/api/stop").status_code == 403
    assert console.stops == 0


def test_after_logout_the_session_is_worth_nothing(console: Console) -> None:
    console.login("operator")
    session = console.browser.cookies[console.access.cookie]
    console.browser.post("/logout", follow_redirects=False)
    assert console.access.role_of(session) is None


def test_a_browser_that_asks_under_a_foreign_name_is_refused(console: Console) -> None:
    answer = console.browser.get("/login", headers={"host": "elsewhere.example"})
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/login", "/static/console.css", "/api/state"])
def test_every_answer_forbids_whatever_is_not_from_here(console: Console, path: str) -> None:
    headers = console.browser.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_the_session_cookie_is_kept_from_scripts_and_other_pages(console: Console) -> None:
    token = console.access.token_files["viewer"].read_text()
    answer = console.browser.post("/login", data={"token": token}, follow_redirects=False)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_the_state_is_what_the_round_loop_told_the_board(console: Console) -> None:
    console.login("viewer")
    console.online = {"tnbc"}
    console.board.round_started(1, 1, 1)
    sites = {"tnbc": SiteRound(val_dice=0.8, num_examples=30, drift=float("nan"))}
    sites["monuseg"] = SiteRound(refused="it came too late")
    record = RoundRecord(round=1, phase=1, sites=sites, bytes=Traffic(up=5, down=7))
    console.board.round_finished(record)
    state = console.browser.get("/api/state").json()
    assert state["run"]["completed"] == 1
    assert state["run"]["dice"] == 0.8
    tnbc, monuseg = state["sites"]
    assert (tnbc["stream"], tnbc["val_dice"], tnbc["last_round"]) == (True, 0.8, 1)
    assert tnbc["drift"] is None, "JSON has no NaN"
    assert (monuseg["stream"], monuseg["last_round"]) == (False, None)
    assert state["rounds"][0]["bytes"] == {"up": 5, "down": 7}
    assert any("it came too late" in alert["text"] for alert in state["alerts"])


def test_what_the_exchange_refused_is_shown_by_code(console: Console) -> None:
    from fdfed.exchange import PrototypeFrame, StepKey

    console.login("viewer")
    key = StepKey("run", 1, 1, 0)
    frame = PrototypeFrame(key, np.zeros(4, np.float32), np.ones(1, bool))
    assert console.hub.submit("tnbc", frame).exception() is not None
    assert console.browser.get("/api/state").json()["exchange"]["refused"] == {"WRONG_ROUND": 1}


def test_a_stream_that_was_open_and_is_closed_is_an_alert(console: Console) -> None:
    console.online = {"tnbc"}
    first = console.board.version
    assert not console.board.snapshot()["alerts"]
    console.online = set()
    assert console.board.version > first
    (alert,) = console.board.snapshot()["alerts"]
    assert "stream of tnbc is closed" in alert["text"]


def test_the_roster_and_a_certificate_that_ends_soon_are_shown(console: Console) -> None:
    assert console.board.snapshot()["roster"] == {"version": 3, "certificates": {}}
    soon = datetime.now(UTC) + timedelta(days=5)
    console.certificate_ends = {"the certificate of tnbc": soon}
    shown = console.board.snapshot()
    assert shown["roster"]["certificates"] == {"the certificate of tnbc": soon.isoformat()}
    (alert,) = shown["alerts"]
    assert "the certificate of tnbc" in alert["text"]
