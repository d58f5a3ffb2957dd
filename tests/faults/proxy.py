"""A network between two processes that can be cut, slowed and half closed, as a TCP proxy.

The kernel's own means (netem) need rights that a test rarely has. A proxy sees no less of what a
program notices: the bytes that do not come, the connection that is reset, the end that comes early.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_CHUNK: Final = 16 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that sends RST instead of FIN."""


@dataclass
class Weather:
    """What befalls the bytes; changed while they flow."""

    refuse: bool = False
    """New connections are reset at once."""
    silent: bool = False
    """Nothing is passed on, and nothing is closed: a route that swallows packets."""
    delay_seconds: float = 0.0
    """Before each chunk, in both directions."""
    bytes_per_second: float | None = None
    """Of the line, in each direction: its connections share it."""
    lose_answers: int = 0
    """So many answers from now on are swallowed, and their connections reset: the request was
    served, and nobody hears so."""


class Proxy:
    """Listens on a port of loopback and passes everything to another; in a thread of its own."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._weather = Weather()
        self._free = {False: 0.0, True: 0.0}
        """When the line has passed on all that was given to it, by direction."""
        self.passed = {False: 0, True: 0}
        """Bytes so far, to the server and (True) back."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    def close(self) -> None:
        """Resets all connections and frees the port."""
        if self._loop.is_closed():
            return
        self.cut(refuse=True)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def cut(self, *, refuse: bool = False) -> None:
        """Resets every connection; with `refuse`, new ones too until `heal`."""

        def cut() -> None:
            self._weather.refuse = refuse
            for writer in tuple(self._writers):
                _reset(writer)

        self._do(cut)

    def half_close(self) -> None:
        """Ends the direction to the server of every connection; the answers still flow."""

        def half_close() -> None:
            for upstream in tuple(self._clients):
                with suppress(OSError, RuntimeError):
                    upstream.write_eof()

        self._do(half_close)

    def set(self, **weather: object) -> None:
        """Sets fields of `Weather`."""

        def change() -> None:
            for name, value in weather.items():
                setattr(self._weather, name, value)

        self._do(change)

    def heal(self) -> None:
        """From now on the network is as it should be; what is open stays open."""
        nothing = Weather()
        self.set(
            refuse=False,
            silent=False,
            delay_seconds=nothing.delay_seconds,
            bytes_per_second=None,
            lose_answers=0,
        )

    def _do(self, call: object) -> None:
        done = threading.Event()

        def run() -> None:
            try:
                call()  # type: ignore[operator]
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(10)

    async def _serve(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather.refuse:
            _reset(writer)
            return
        try:
            back, upstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        both = {writer, upstream}
        self._writers |= both
        self._clients[upstream] = writer
        try:
            await asyncio.gather(
                self._pass(reader, upstream, answers=False),
                self._pass(back, writer, answers=True),
            )
        finally:
            self._writers -= both
            self._clients.pop(upstream, None)
            for each in both:
                with suppress(OSError, RuntimeError):
                    each.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        weather = self._weather
        # RuntimeError: the direction was ended by `half_close`.
        with suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            while chunk := await reader.read(_CHUNK):
                while weather.silent:
                    await asyncio.sleep(0.02)
                if weather.delay_seconds:
                    await asyncio.sleep(weather.delay_seconds)
                if weather.bytes_per_second:
                    begins = max(self._loop.time(), self._free[answers])
                    self._free[answers] = begins + len(chunk) / weather.bytes_per_second
                    await asyncio.sleep(self._free[answers] - self._loop.time())
                # TLS speaks first in handshakes, in small records; an answer that matters is
                # whatever follows a request on a connection that has been in use.
                if answers and weather.lose_answers:
                    weather.lose_answers -= 1
                    _reset(writer)
                    return
                self.passed[answers] += len(chunk)
                writer.write(chunk)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        opened = writer.get_extra_info("socket")
        if opened is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
