"""The SuperLink as a child process of the coordinator, kept alive.

It is a process of its own because Flower's server works in one event loop with its database: beside
the training loop it would stand still with it, and a crash of the one would end the other.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import httpx

from fdfed.errors import ConnectionFailed, CryptoError, InvalidInput
from fdfed.wire import SPOKEN
from fdfed_server.config import ServerConfig
from fdfed_server.flower.environment import flower_environment
from fdfed_server.flower.orders import SuperLinkOrders
from fdfed_server.flower.surface import HEALTH_PATH

_log = logging.getLogger(__name__)

_CONTROL_HOST: Final = "127.0.0.1"
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
_STEADY_SECONDS: Final = 30.0
"""A child that lived this long starts the back-off anew."""
_DEATHS_AT_START: Final = 3
"""A child that never answered is not started more often than this."""
_PORT_PATIENCE: Final = 3.0
"""The child of a coordinator that was killed holds its ports for up to a second longer."""


class SuperLink:
    """Flower's server process: registry of nodes, and store of the messages under way.

    It is started again when it dies, on the same database and the same ports, and a run goes on:
    the coordinator's calls and the sites' agents wait and try again meanwhile. Use as a context
    manager, or call `start` (or its two halves) and `stop`.

    Args:
        config: ports, certificate files and state folder; its paths must be complete.
    """

    def __init__(self, config: ServerConfig, *, start_timeout: float = 180.0) -> None:
        self._config = config
        self._start_timeout = start_timeout
        self._stopping = threading.Event()
        self._sockets: list[socket.socket] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self.restarts = 0
        """How often the child died and was replaced."""
        self._answered = False
        self.secret = b""
        """What calls to the control port prove that they know. Empty before `start`."""
        self.root_certificates = b""

    @property
    def control_address(self) -> str:
        """`host:port` of the loopback port that answers to the coordinator alone."""
        return f"{_CONTROL_HOST}:{self._config.control_port}"

    @property
    def state(self) -> Path:
        """Folder of the database, the log and the secret."""
        return self._config.state

    @property
    def pid(self) -> int | None:
        """Process id of the child that runs now."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def check(self) -> str:
        """For readiness: what keeps the child from answering over TLS now, if anything does."""
        if self.pid is None:
            return "is down, and is started again"
        try:
            with self._loopback() as client:
                return "" if client.get(HEALTH_PATH).is_success else "answers with an error"
        except httpx.TransportError:
            return "does not answer"

    def start(self) -> None:
        """`begin`, and `await_answer`."""
        self.begin()
        self.await_answer()

    def begin(self) -> None:
        """Starts the child, which is not up yet when this returns.

        Raises:
            InvalidInput: if a port is taken or may not be opened.
            CryptoError: if a certificate file is missing or cannot be used.
        """
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state.chmod(0o700)
        self.root_certificates = self._check_certificates()
        self.secret = _secret_in(self.state / "superlink.secret")
        config = self._config
        try:
            self._sockets = [
                _listen(config.bind, config.fleet_port, "fleet_port"),
                _listen(_CONTROL_HOST, config.control_port, "control_port"),
            ]
            self._thread = threading.Thread(target=self._supervise, name="superlink", daemon=True)
            self._thread.start()
        except BaseException:
            self.stop()
            raise

    def await_answer(self) -> None:
        """Returns once the child answers over TLS.

        Raises:
            ConnectionFailed: if it does not come up; it is stopped.
        """
        deadline = time.monotonic() + self._start_timeout
        try:
            with self._loopback() as client:
                while not self._answered:
                    with suppress(httpx.TransportError):
                        self._answered = client.get(HEALTH_PATH).is_success
                    if not self._answered and (
                        time.monotonic() > deadline or self.restarts >= _DEATHS_AT_START
                    ):
                        raise ConnectionFailed(self._why_it_did_not_start())
                    time.sleep(0 if self._answered else 0.05)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the child, and frees the ports."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for listener in self._sockets:
            listener.close()
        self._sockets = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _supervise(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            how = self._live()
            if self._stopping.is_set():
                break
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            self.restarts += 1
            if not self._answered and self.restarts >= _DEATHS_AT_START:
                break
            _log.warning(
                "the SuperLink %s; starting it again in %.1f s (its log is %s)",
                how,
                pause,
                self.state / "superlink.log",
            )
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        _end(self._child)

    def _live(self) -> str:
        """One life of the child: returns how it ended, or when told to stop."""
        try:
            self._child = self._spawn()
        except OSError as err:
            return f"could not be started ({err.strerror})"
        while self._child.poll() is None and not self._stopping.wait(0.1):
            pass
        return f"ended with status {self._child.returncode}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        fleet, control = (listener.fileno() for listener in self._sockets)
        orders = SuperLinkOrders(
            parent=os.getpid(),
            state=self.state,
            ca=self._config.ca,
            certificate=self._config.certificate,
            key=self._config.key,
            secret=self.state / "superlink.secret",
            invited=self._config.invited,
            requests=self.state / "enrolment",
            answers=self._config.answers,
            protocol=SPOKEN,
            fleet_socket=fleet,
            control_socket=control,
        )
        command = [sys.executable, "-m", "fdfed_server.flower", orders.model_dump_json()]
        with _open_private(self._last_words) as errors:
            return subprocess.Popen(  # noqa: S603  (our own interpreter, our own module)
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(fleet, control),
                env=flower_environment(self.state, os.environ),
                # Ctrl-C in a terminal goes to the whole group; the coordinator ends its child
                # itself, after the end of the run has been stored.
                start_new_session=True,
            )

    @property
    def _last_words(self) -> Path:
        """What the child printed before its log was open, or as it crashed."""
        return self.state / "superlink.stderr"

    def _loopback(self) -> httpx.Client:
        """A client of the control port; not through a proxy that the environment may name."""
        context = ssl.create_default_context(cadata=self.root_certificates.decode())
        address = f"https://{self.control_address}"
        return httpx.Client(base_url=address, verify=context, trust_env=False, timeout=2)

    def _why_it_did_not_start(self) -> str:
        try:
            lines = self._last_words.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        said = lines[-1] if lines else "nothing"
        return (
            f"the SuperLink did not answer on {self.control_address} (tried for "
            f"{self._start_timeout:.0f} s, ended {self.restarts} times); its last words: {said}. "
            f"More is in {self.state / 'superlink.log'} and {self._last_words}"
        )

    def _check_certificates(self) -> bytes:
        """The authority's certificate, after a look at all three files."""
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_verify_locations(config.ca)
            context.load_cert_chain(config.certificate, config.key)
            return config.ca.read_bytes()
        except (OSError, ssl.SSLError) as err:
            raise CryptoError(
                f"{config.ca}, {config.certificate} and {config.key} cannot serve TLS: {err}. "
                "`fdfed-server provision` makes them; [server] in federation.toml names them"
            ) from err


def _listen(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens on `port`; waits a little for one that is just being freed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + _PORT_PATIENCE
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)
        except OSError as err:
            listener.close()
            if err.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise InvalidInput(
                f"port {port} on {host} cannot be opened ({err.strerror}). Stop the program that "
                f"holds it, or give another {setting} under [server] in federation.toml"
            ) from err
        return listener


def _secret_in(path: Path) -> bytes:
    """The secret in the file `path`, made on the first call."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
    secret = path.read_bytes()
    if len(secret) != 32:
        raise CryptoError(f"{path} holds {len(secret)} bytes, not 32; delete it, a new one is made")
    return secret


def _open_private(path: Path) -> BinaryIO:
    """`path` emptied and open for writing, readable by its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _end(child: subprocess.Popen[bytes] | None) -> None:
    if child is None:
        return
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
