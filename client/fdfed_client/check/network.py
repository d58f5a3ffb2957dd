"""The way to the coordinator: its name, the proxy, the port, TLS, the clock, the version."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpx
from cryptography import x509

from fdfed.wire import PROTOCOL_HEADER, SPOKEN
from fdfed_client.check.result import CheckResult, note, ok, problem, warning
from fdfed_client.config import SiteConfig

_SECONDS: Final = 10.0
_CLOCK_AHEAD: Final = 5.0
"""Flower takes a signature from at most this far in its future, in seconds ..."""
_CLOCK_BEHIND: Final = 300.0
"""... and from at most this long ago."""
_CLOCK_FINE: Final = 2.0
"""Below this, seconds, the Date header's own whole seconds are all that is seen."""


def check_way(config: SiteConfig) -> Iterator[CheckResult]:
    """From the name to the version, up to the first thing that does not work."""
    proxied = proxy_for(config.server)
    found = _name(config.server, proxied)
    yield found
    if found.level == "problem":
        return
    yield _proxy(proxied)
    if proxied is None:
        found = _port("fleet port", config.server, config.fleet_port)
        yield found
        if found.level == "problem":
            return
    yield from _health(config, proxied)


def proxy_for(host: str) -> str | None:
    """The proxy that the environment sets for the way to `host`, without its password."""
    proxy = getproxies().get("https") or getproxies().get("all")
    if not proxy or proxy_bypass(host) or host in ("localhost", "127.0.0.1"):
        return None
    return re.sub(r"//[^/@]*@", "//", proxy)


def check_exchange_port(config: SiteConfig) -> CheckResult:
    """Whether something answers on the exchange's port."""
    return _port("exchange port", config.server, config.exchange_port)


def _name(server: str, proxied: str | None) -> CheckResult:
    try:
        found = socket.getaddrinfo(server, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as err:
        if proxied is not None:
            return note("name", f"{server} has no address here; the proxy looks it up")
        return problem(
            "name",
            f"{server} has no address here ({getattr(err, 'strerror', None) or err})",
            "check server in site.toml, and ask your network group whether this machine may look "
            "up names outside; an entry in /etc/hosts works too",
        )
    addresses = sorted({str(entry[4][0]) for entry in found})
    return ok("name", f"{server} is {', '.join(addresses[:3])}")


def _proxy(proxied: str | None) -> CheckResult:
    if proxied is None:
        return ok("proxy", "none is set for the way to the coordinator")
    return note(
        "proxy",
        f"{proxied} is set for the way to the coordinator",
        "it must let TLS through unopened (CONNECT) to both ports; else add the coordinator to "
        "NO_PROXY",
    )


def _port(topic: str, server: str, port: int) -> CheckResult:
    try:
        with socket.create_connection((server, port), timeout=_SECONDS):
            return ok(topic, f"{server}:{port} answers")
    except TimeoutError:
        found = f"{server}:{port} does not answer within {_SECONDS:.0f} s"
        remedy = (
            f"a firewall drops the connection: ask for outbound TCP to {server}, port {port}; "
            "nothing needs to be open inwards"
        )
    except OSError as err:
        found = f"{server}:{port} refuses the connection ({err.strerror or err})"
        remedy = (
            "the coordinator is not running, or the port in site.toml is another one; else a "
            f"firewall rejects it: ask for outbound TCP to {server}, port {port}"
        )
    return problem(topic, found, remedy)


def _health(config: SiteConfig, proxied: str | None) -> Iterator[CheckResult]:
    """One request under the consortium's authority, and what it tells."""
    try:
        context = ssl.create_default_context(cadata=config.ca.read_text("ascii"))
    except (OSError, ValueError, ssl.SSLError) as err:
        yield problem("TLS", f"{config.ca} is no certificate ({err})", "put back ca.pem")
        return
    try:
        with httpx.Client(
            verify=context, timeout=_SECONDS, trust_env=proxied is not None
        ) as client:
            answer = client.get(f"https://{config.fleet_address}/health")
    except httpx.TransportError as err:
        yield _refused(config, err, proxied)
        return
    if answer.status_code != httpx.codes.OK:
        yield problem(
            "TLS",
            f"{config.fleet_address} answers HTTP {answer.status_code} to /health",
            "something else listens there: check server and fleet_port in site.toml",
        )
        return
    yield ok("TLS", "the coordinator shows a certificate of the consortium, for this name")
    yield _clock(answer)
    yield _version(answer.headers.get(PROTOCOL_HEADER))


def _refused(config: SiteConfig, err: httpx.TransportError, proxied: str | None) -> CheckResult:
    fault = _certificate_fault(err)
    if fault is None and isinstance(err, httpx.TimeoutException):
        return problem(
            "TLS",
            f"{config.fleet_address} takes the connection, and says nothing for {_SECONDS:.0f} s",
            "the coordinator is just starting or has too much to do: try again in a minute; else "
            "a firewall on the way holds the connection back",
        )
    if fault is None:
        via = f" through the proxy {proxied}" if proxied else ""
        return problem(
            "TLS",
            f"no TLS connection to {config.fleet_address}{via} ({err})",
            "if a proxy is on the way, have it pass this host unopened; if the port is right, the "
            "coordinator does not speak TLS there",
        )
    shown = None if proxied else _shown_issuer(config.server, config.fleet_port)
    return _wrong_certificate(config, fault, shown)


def _wrong_certificate(
    config: SiteConfig, fault: ssl.SSLCertVerificationError, shown: str | None
) -> CheckResult:
    """Why the certificate that was shown is not good, by OpenSSL's code and its issuer."""
    if fault.verify_code == _EXPIRED_CODE:
        return problem(
            "TLS",
            "the coordinator's certificate has expired, by the clock of this machine",
            "check this machine's clock first; if it is right, tell the coordinator's operator",
        )
    if fault.verify_code == _EARLY_CODE:
        return problem(
            "clock",
            "the coordinator's certificate is not valid yet, by the clock of this machine",
            "this machine's clock is behind: synchronise it (NTP)",
        )
    if fault.verify_code in _NAME_CODES:
        return problem(
            "TLS",
            f"the certificate at {config.fleet_address} is the consortium's, but not for this name",
            "use the name that the coordinator was provisioned for as server in site.toml",
        )
    if shown is not None and _OUR_AUTHORITY in shown:
        return problem(
            "TLS",
            "the certificate that arrives here was issued by another consortium of fdfed",
            "server and ports in site.toml lead to another coordinator, or ca.pem is not of this "
            "consortium",
        )
    return problem(
        "TLS inspection",
        "the certificate that arrives here was not issued by the consortium"
        + (f", but by {shown}" if shown else ""),
        f"a proxy or firewall opens TLS: have {config.server}, ports {config.fleet_port} and "
        f"{config.exchange_port}, exempted from inspection",
    )


_OUR_AUTHORITY: Final = "CN=fdfed consortium"
_EXPIRED_CODE: Final = 10
_EARLY_CODE: Final = 9
_NAME_CODES: Final = (62, 64)
"""Verification results of OpenSSL (x509_vfy.h): expired, not yet valid, host name, address."""


def _certificate_fault(err: BaseException) -> ssl.SSLCertVerificationError | None:
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _shown_issuer(server: str, port: int) -> str | None:
    """Who issued the certificate that is shown, for the eye alone: nothing is sent over this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((server, port), timeout=_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=server) as connection,
        ):
            der = connection.getpeercert(binary_form=True)
    except OSError:
        return None
    if der is None:
        return None
    try:
        name = x509.load_der_x509_certificate(der).issuer.rfc4514_string()
    except (ValueError, x509.InvalidVersion):
        name = "(its certificate cannot be read)"
    # A stranger wrote it, and it goes to a terminal.
    return "".join(c if c.isprintable() else "?" for c in name)[:120]


def _clock(answer: httpx.Response) -> CheckResult:
    try:
        sent = email.utils.parsedate_to_datetime(answer.headers["date"])
        ahead = (datetime.now(UTC) - sent).total_seconds()
    except (KeyError, TypeError, ValueError):
        return note("clock", "the coordinator does not tell its time")
    if -_CLOCK_BEHIND < ahead < _CLOCK_AHEAD:
        if abs(ahead) <= _CLOCK_FINE:
            return ok("clock", "as the coordinator's, to 2 s")
        return warning("clock", f"{ahead:+.0f} s off the coordinator's", "synchronise it (NTP)")
    return problem(
        "clock",
        f"{ahead:+.0f} s off the coordinator's, which then takes no signature of this site",
        "synchronise this machine's clock (NTP): timedatectl set-ntp true",
    )


def _version(said: str | None) -> CheckResult:
    if said is None:
        return warning(
            "version",
            "the coordinator does not say which formats it speaks: it is older than this agent",
            "agree on one version of fdfed with the coordinator's operator",
        )
    if said != SPOKEN:
        return problem(
            "version",
            f"the coordinator speaks {_clean(said)}, this agent {SPOKEN}",
            "install the same version of fdfed on both sides",
        )
    return ok("version", f"both sides speak {SPOKEN}")


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:60]
