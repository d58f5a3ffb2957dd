"""Whether the exchange takes this hospital: its certificate, the roster there, the pinned key."""

from __future__ import annotations

from typing import Final

from fdfed.errors import ConnectionFailed, CryptoError
from fdfed.exchange import ExchangeCode, FrameRefused
from fdfed_client.check.identity import identity_of
from fdfed_client.check.result import CheckResult, note, ok, problem
from fdfed_client.config import SiteConfig
from fdfed_client.exchange_link import ExchangeLink, HubUnavailable

_SECONDS: Final = 10.0
_REMEDIES: Final = {
    ExchangeCode.UNKNOWN_SITE: (
        "this hospital is not registered at the coordinator",
        "ask its operator whether it has the newest roster; the run must name this site too",
    ),
    ExchangeCode.REVOKED: (
        "this hospital's certificate has been revoked: the roster there lists another one, or none",
        "ask whoever keeps the consortium's keys; a renewed certificate must be in site.pem",
    ),
    ExchangeCode.WRONG_PROTOCOL: (
        "the coordinator speaks another version of the exchange",
        "install the same version of fdfed on both sides",
    ),
}


def check_exchange(config: SiteConfig) -> CheckResult:
    """Opens a stream, greets, and leaves; no frame is sent, and no round notices.

    A Flower node is not joined for this: the coordinator would send it work, and wait for it.
    """
    try:
        link = ExchangeLink(
            config.exchange_address,
            identity_of(config),
            connect_seconds=_SECONDS,
            reply_seconds=_SECONDS,
        )
    except FrameRefused as err:
        if err.code is ExchangeCode.DUPLICATE_STREAM:
            return note("exchange", "accepted; an agent of this site is connected already")
        found, remedy = _REMEDIES.get(
            err.code, (f"refused with {err.code.name}", err.code.public_message)
        )
        return problem("exchange", found, remedy)
    except HubUnavailable as err:
        return problem(
            "exchange",
            f"no stream to {config.exchange_address}: {err}",
            "if the port answers, something on the way lets no HTTP/2 through, or this site's "
            "certificate is not taken; the coordinator's log says which",
        )
    except CryptoError as err:
        return problem(
            "exchange", str(err), "compare the files of this site with the coordinator's"
        )
    except ConnectionFailed as err:
        return problem("exchange", str(err), "see the coordinator's log")
    link.close()
    return ok("exchange", "the coordinator knows this site, and has the key that is pinned here")
