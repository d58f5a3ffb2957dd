"""Leaves this site's request at the coordinator, and fetches the answer; it can read neither's
meaning away from the consortium, since both are signed."""

from __future__ import annotations

import ssl
from typing import Final

import httpx

from fdfed.errors import ConnectionFailed, CryptoError
from fdfed.membership.enrolment import DESK_PATH, INVITATION_HEADER, MAX_ANSWER, EnrolmentRequest
from fdfed_client.config import SiteConfig

_SECONDS: Final = 15.0


class EnrolmentRelay:
    """The coordinator's enrolment desk, over TLS by the consortium's authority alone."""

    def __init__(self, config: SiteConfig, relay_key: str) -> None:
        """
        Raises:
            CryptoError: if `ca.pem` cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=str(config.ca))
        except (OSError, ssl.SSLError) as err:
            raise CryptoError(f"{config.ca} is no certificate in PEM: {err}") from err
        self._url = f"https://{config.fleet_address}{DESK_PATH}{config.site}"
        self._address = config.fleet_address
        self._client = httpx.Client(
            verify=context,
            follow_redirects=False,
            timeout=_SECONDS,
            headers={INVITATION_HEADER: relay_key},
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def leave(self, request: EnrolmentRequest) -> None:
        """Leaves the request for the consortium to fetch.

        Raises:
            ConnectionFailed: if the coordinator is not there, or does not take it.
        """
        self._call("PUT", request.model_dump_json().encode())

    def answer(self) -> bytes | None:
        """The consortium's answer, if it has reached the coordinator; nothing of it is verified.

        Raises:
            ConnectionFailed: if the coordinator is not there.
        """
        return self._call("GET", None) or None

    def _call(self, method: str, content: bytes | None) -> bytes:
        try:
            with self._client.stream(method, self._url, content=content) as response:
                if not response.is_success:
                    raise ConnectionFailed(self._refusal(response.status_code))
                body = bytearray()
                for chunk in response.iter_bytes(1 << 16):
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise ConnectionFailed(
                            f"{self._address} answers with more than {MAX_ANSWER} bytes; that is "
                            "no answer of the consortium"
                        )
                return bytes(body)
        except httpx.TransportError as err:
            raise ConnectionFailed(
                f"the coordinator at {self._address} cannot be reached ({type(err).__name__}: "
                f"{err}); check server and fleet_port in site.toml, and the firewall"
            ) from err

    def _refusal(self, status: int) -> str:
        if status == httpx.codes.NOT_FOUND:
            return (
                f"{self._address} does not know this invitation; it was withdrawn, or the pack is "
                "of another federation. Ask the consortium, or send request.json by another way"
            )
        return f"{self._address} does not take the request (HTTP {status}); use the same fdfed"
