"""Serving a console: on loopback, for the time of the context, and never in the way."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from fdfed.console import serving


def application() -> FastAPI:
    app = FastAPI()
    app.state.closing = closing = threading.Event()

    @app.get("/")
    def hello() -> str:
        return "here"

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(words())

    async def words() -> AsyncIterator[str]:
        while not closing.is_set():
            yield "on\n"
            await asyncio.sleep(0.05)
        yield "and to its end\n"

    return app


def test_the_page_is_served_while_the_context_lasts() -> None:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    with (
        serving(application(), address="127.0.0.1", port=port, setting="console_port"),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer,
    ):
        assert answer.read() == b'"here"'
        assert "server" not in answer.headers
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)


def test_an_open_stream_ends_in_order_when_the_console_does() -> None:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    with ExitStack() as serves:
        serves.enter_context(
            serving(application(), address="127.0.0.1", port=port, setting="console_port")
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stream", timeout=10) as answer:
            assert answer.readline() == b"on\n"
            ending = threading.Thread(target=serves.close)
            ending.start()
            # A stream that is cut would raise here.
            assert answer.read().endswith(b"and to its end\n")
            ending.join()


def test_a_port_that_is_taken_is_a_warning_that_names_the_setting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(application(), address="127.0.0.1", port=port, setting="console_port"):
            pass
    assert "set console_port to a free port" in caplog.text


def test_port_zero_serves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with serving(application(), address="127.0.0.1", port=0, setting="console_port"):
        pass
    assert not caplog.records
