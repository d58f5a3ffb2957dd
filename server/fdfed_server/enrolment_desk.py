"""Where an invited site leaves its request at the coordinator, and finds the answer.

The coordinator only carries both: the request is signed by the site and vouched for by a token that
the coordinator does not have, the answer by the consortium. What can be done here by whoever has no
invitation is nothing; by whoever has one, to leave one small file under that site's name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from fdfed.config import SiteName
from fdfed.errors import FdfedError
from fdfed.files.private_file import replace_private
from fdfed.membership.enrolment import DESK_PATH, INVITATION_HEADER, MAX_REQUEST, EnrolmentRequest
from fdfed.membership.roster import Digest

_SITE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_INVITED: Final = TypeAdapter(dict[SiteName, Digest])


class EnrolmentDesk:
    """An ASGI application for the paths below `DESK_PATH`, one a site.

    Args:
        invited: file that maps each invited site to the SHA-256 of its relay key.
        requests: folder in which SITE.json is kept for the consortium to fetch.
        answers: folder in which SITE.json is found once the consortium has answered.
    """

    def __init__(self, *, invited: Path, requests: Path, answers: Path) -> None:
        self._invited = invited
        self._requests = requests
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        site = str(scope["path"]).removeprefix(DESK_PATH)
        shown = dict(scope["headers"]).get(INVITATION_HEADER.encode(), b"")
        if not _SITE.fullmatch(site) or not self._is_invited(site, shown):
            await _answer(send, 404)
        elif scope["method"] == "PUT":
            await _answer(send, await self._keep(site, receive))
        elif scope["method"] == "GET":
            answer = self._answers / f"{site}.json"
            found = answer.read_bytes() if answer.is_file() else b""
            await _answer(send, 200 if found else 204, found)
        else:
            await _answer(send, 405)

    def _is_invited(self, site: str, shown: bytes) -> bool:
        expected = read_invited(self._invited).get(site, "")
        return hmac.compare_digest(hashlib.sha256(shown).hexdigest(), expected)

    async def _keep(self, site: str, receive: Receive) -> int:
        body = bytearray()
        while True:
            event = await receive()
            body += event.get("body", b"")
            if len(body) > MAX_REQUEST:
                return 413
            if not event.get("more_body", False):
                break
        try:
            request = EnrolmentRequest.parse(bytes(body), source="the request")
        except FdfedError:
            return 422
        if request.site != site:
            return 422
        replace_private(self._requests / f"{site}.json", bytes(body))
        return 202


def read_invited(path: Path) -> Mapping[str, str]:
    """Site → SHA-256 of its relay key; empty where nobody is invited, or the file is damaged."""
    try:
        return dict(_INVITED.validate_json(path.read_bytes()))
    except (OSError, ValidationError):
        return {}


async def _answer(send: Send, status: int, body: bytes = b"") -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
