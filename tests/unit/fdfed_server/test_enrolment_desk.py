"""The enrolment desk: what it takes, from whom, and what strangers get there: nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from fdfed.membership.enrolment import DESK_PATH, INVITATION_HEADER, MAX_REQUEST
from fdfed_client.enrolment import SiteFolder
from fdfed_server.enrolment_desk import EnrolmentDesk
from fdfed_server.flower.surface import PublicSurface
from fdfed_server.provision import provision


async def _flower(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("no request about enrolment reaches Flower")


class Desk:
    """The public door of a coordinator, with its desk."""

    def __init__(self, out: Path) -> None:
        self.requests, self.answers = out / "requests", out / "answers"
        self.site = SiteFolder.open(out / "sites" / "tnbc")
        desk = EnrolmentDesk(
            invited=out / "server" / "invited.json", requests=self.requests, answers=self.answers
        )
        self._app = PublicSurface(_flower, desk=desk)

    def ask(
        self,
        method: str,
        *,
        site: str = "tnbc",
        key: str | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        shown = self.site.relay_key if key is None else key

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(
                    method,
                    f"{DESK_PATH}{site}",
                    headers={INVITATION_HEADER: shown},
                    content=content,
                )

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("consortium")
    provision(["tnbc", "udiat"], out, with_site_keys=False)
    return out


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Desk:
    desk = Desk(made)
    desk.requests, desk.answers = tmp_path / "requests", tmp_path / "answers"
    desk._app = PublicSurface(
        _flower,
        desk=EnrolmentDesk(
            invited=made / "server" / "invited.json", requests=desk.requests, answers=desk.answers
        ),
    )
    return desk


def test_an_invited_site_leaves_its_request_and_finds_its_answer(desk: Desk) -> None:
    content = desk.site.request().model_dump_json().encode()
    assert desk.ask("GET").status_code == 204
    assert desk.ask("PUT", content=content).status_code == 202
    kept = desk.requests / "tnbc.json"
    assert kept.read_bytes() == content
    assert kept.stat().st_mode & 0o777 == 0o600
    desk.answers.mkdir()
    (desk.answers / "tnbc.json").write_bytes(b"the answer")
    assert desk.ask("GET").content == b"the answer"


@pytest.mark.parametrize("key", ["", "0" * 64, "x"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_without_the_invitation_the_desk_is_not_there(desk: Desk, method: str, key: str) -> None:
    content = desk.site.request().model_dump_json().encode()
    assert desk.ask(method, key=key, content=content).status_code in (404, 411)
    assert not desk.requests.exists()


@pytest.mark.parametrize("site", ["udiat", "../tnbc", "tnbc/../udiat", "nobody", "", "TNBC"])
def test_one_sites_invitation_opens_no_other_sites_drawer(desk: Desk, site: str) -> None:
    content = desk.site.request().model_dump_json().encode()
    assert desk.ask("PUT", site=site, content=content).status_code == 404
    assert not desk.requests.exists()


def test_a_request_for_another_site_or_of_another_form_is_not_kept(desk: Desk, made: Path) -> None:
    other = SiteFolder.open(made / "sites" / "udiat").request().model_dump_json().encode()
    for content in (other, b"", b"{}", b"\xff", b"[" * 60_000):
        assert desk.ask("PUT", content=content).status_code == 422
    assert desk.ask("PUT", content=bytes(MAX_REQUEST + 1)).status_code == 413
    assert desk.ask("POST", content=b"{}").status_code == 405
    assert not desk.requests.exists()
