"""Serving a console: on loopback, for the time of the context, and never in the way."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from fastapi import FastAPI

from fdfed.console import serving


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def hello() -> str:
        return "here"

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
