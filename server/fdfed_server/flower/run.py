"""One run: opened at the SuperLink, and a `ServerApp` that is run in this process.

Flower would start the app in a process of its own, from the bundle that came with the run. Here the
coordinator claims the run's task itself and calls the app object that it holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from flwr.app import Context
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.serverapp import ServerApp
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

from fdfed.errors import ConnectionFailed
from fdfed.process.health import Pulse
from fdfed_server.flower.bundle import config_only_bundle
from fdfed_server.flower.calls import connect, register_sites, stop_old_runs, translated
from fdfed_server.flower.grid import RunGrid
from fdfed_server.flower.messages import set_task_identity
from fdfed_server.flower.superlink import SuperLink

_log = logging.getLogger(__name__)

_TASK_TYPE: Final = "flwr-serverapp"
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"
_TASK_PATIENCE: Final = 30.0
ConfigValue = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSession:
    """An open run: what a `ServerApp` is called with."""

    grid: RunGrid
    context: Context
    run_id: int
    """Flower's number of the run."""


def run_server_app(
    app: ServerApp,
    *,
    superlink: SuperLink,
    node_keys: Mapping[str, str],
    run_config: Mapping[str, ConfigValue] | None = None,
    pulse: Pulse | None = None,
) -> int:
    """Runs `app` in this thread as a new run of `superlink`; returns the run's number at the end.

    Args:
        node_keys: site name → OpenSSH public key, from the roster; no other node is let in.
        run_config: what the app finds in `context.run_config`.
        pulse: beats whenever the app looks for nodes or replies.

    Raises:
        ConnectionFailed: if the SuperLink is away for too long.
        Exception: what the app raises; the run is then marked as failed.
    """
    with open_run(superlink, node_keys=node_keys, run_config=run_config, pulse=pulse) as session:
        app(grid=session.grid, context=session.context)
        return session.run_id


@contextmanager
def open_run(
    superlink: SuperLink,
    *,
    node_keys: Mapping[str, str],
    run_config: Mapping[str, ConfigValue] | None = None,
    pulse: Pulse | None = None,
) -> Iterator[ServerSession]:
    """A new run, whose task this process holds until the block ends; see `run_server_app`.

    Runs that an earlier coordinator left unfinished are ended first. The run counts as completed if
    the block ends without an exception, else as failed.
    """
    register_sites(superlink, node_keys)
    stop_old_runs(superlink)
    token = _acquire(superlink, _start(superlink))
    status, details = SubStatus.FAILED, ""
    with (
        RunGrid(superlink, token=token, node_keys=node_keys, pulse=pulse) as grid,
        connect(
            RuntimeHttpClient,
            superlink,
            RuntimeTokenHttpInterceptor(token=token),
            component="flwr-serverapp",
            patient=False,
        ) as client,
    ):
        heart = HeartbeatSender(_beat(client))
        try:
            with translated("running"):
                heart.start()
                yield _enter(grid, run_config or {})
            status = SubStatus.COMPLETED
        except BaseException as err:
            details = type(err).__name__
            raise
        finally:
            _leave(client, heart, status, details)


def _start(superlink: SuperLink) -> int:
    request = StartRunRequest(fab=fab_to_proto(config_only_bundle()))
    with (
        connect(ControlHttpClient, superlink, component="flwr-cli") as client,
        translated("starting a run"),
    ):
        run_id = client.StartRun(request).run_id
    if not run_id:
        raise ConnectionFailed(
            "the SuperLink opened no run and gave no reason; see superlink.log in the state folder"
        )
    return run_id


def _acquire(superlink: SuperLink, run_id: int) -> str:
    """The token of the run's task. Tasks of runs that have ended since are passed over."""
    signer = SuperExecAuthHttpInterceptor(
        master_secret=superlink.secret, protected_methods={_ACQUIRE}
    )
    deadline = time.monotonic() + _TASK_PATIENCE
    with (
        connect(RuntimeHttpClient, superlink, signer, component="SuperExec") as client,
        translated("claiming the run"),
    ):
        while time.monotonic() < deadline:
            found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[_TASK_TYPE]))
            if found.token and found.task.run_id == run_id:
                return found.token
            time.sleep(0.02)
    raise ConnectionFailed(
        f"the SuperLink did not hand out run {run_id} within {_TASK_PATIENCE:.0f} s; see "
        "superlink.log in the state folder"
    )


def _enter(grid: RunGrid, run_config: Mapping[str, ConfigValue]) -> ServerSession:
    task = grid.runtime.PullTaskInput(PullTaskInputRequest())
    run = run_from_proto(task.run)
    context = context_from_proto(task.context)
    context.run_config = dict(run_config)
    set_task_identity(task_id=task.task_id, run_id=run.run_id, node_id=context.node_id)
    grid.set_run(run)
    return ServerSession(grid=grid, context=context, run_id=run.run_id)


def _beat(client: RuntimeHttpClient) -> Callable[[], bool]:
    """What says "still at it" every 20 s or so. Flower ends a run after a minute without it.

    Flower's own one sends SIGINT to the process when the task is gone. Here the run's next call
    fails, and says why.
    """

    def beat() -> bool:
        try:
            known = client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.HTTPError:
            return False
        if not known:
            _log.error("the SuperLink has given this run up; its next call will fail")
        return True

    return beat


def _leave(client: RuntimeHttpClient, heart: HeartbeatSender, status: str, details: str) -> None:
    if heart.is_running:
        heart.stop()
    try:
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=details))
    except httpx.HTTPError as err:
        # What matters is in the coordinator's own state; a run that stays open is ended by the next
        # start.
        _log.warning("the end of the run could not be stored (%s)", type(err).__name__)
