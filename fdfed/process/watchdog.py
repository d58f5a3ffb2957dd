"""Tells systemd that this process works, for as long as it does.

systemd ends and restarts a service with `WatchdogSec=` from which it has not heard for that long
(sd_notify(3), sd_watchdog_enabled(3)). What it hears here is the answer of `/healthz`: a process
that is alive, and whose loop stands still, falls silent.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fdfed.process.health import Health

log = logging.getLogger(__name__)


@contextmanager
def watchdog(health: Health, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Says so twice in each of systemd's intervals, for the time of the context.

    Args:
        environ: where systemd says how it wants to be told; without it nothing is done.
    """
    address, interval = environ.get("NOTIFY_SOCKET", ""), environ.get("WATCHDOG_USEC", "")
    for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not address or not interval.isdecimal() or not for_us:
        yield
        return
    done = threading.Event()

    def tell() -> None:
        while not done.is_set():
            status, _ = health.answer("/healthz") or (503, b"")
            if status == 200:
                _notify(address, b"WATCHDOG=1")
            done.wait(int(interval) / 2e6)

    thread = threading.Thread(target=tell, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _notify(address: str, message: bytes) -> None:
    # A leading @ stands for the abstract namespace of Linux.
    place = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(place)
            sender.send(message)
    except OSError as err:
        log.warning("systemd's watchdog cannot be told: %s", err.strerror)
