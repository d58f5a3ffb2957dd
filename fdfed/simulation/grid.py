"""A Flower grid whose nodes are threads of this process.

The same server and client objects as in deployment; every message goes through Flower's own object
codec both ways, so that nothing works here that would fail on a wire. No Ray, no ports.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from fdfed.errors import FdfedError
from fdfed.simulation.behaviour import App
from fdfed_server.flower import (
    NodeInfo,
    Run,
    empty_run,
    node_info,
    roundtrip,
    set_task_identity,
    stamp,
)

_FIRST_NODE = 1000
_CLIENT_APP_RAISED = 2
_NODE_UNAVAILABLE = 5
_HOLD_SECONDS = 0.1

Fault = Callable[[Message], bool]
"""Whether this message meets a node that is gone."""


class InProcessGrid(Grid):
    """One thread a site, so that sites wait for each other on the exchange as they do when apart.

    Args:
        apps: each site's client app, by name, in the plan's order.
        faults: by site; a message for which the fault is true is answered as by a dead node.
    """

    def __init__(
        self, apps: Mapping[str, App], *, faults: Mapping[str, Fault] | None = None
    ) -> None:
        set_task_identity(task_id=1, run_id=1, node_id=1)
        self._run = empty_run()
        self._faults = dict(faults or {})
        self._nodes = {_FIRST_NODE + i: site for i, site in enumerate(apps)}
        self._apps = dict(apps)
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"site": site},
                state=RecordDict(),
                run_config={},
            )
            for node, site in self._nodes.items()
        }
        self._pools = {node: ThreadPoolExecutor(1, f"site-{s}") for node, s in self._nodes.items()}
        self._replies: dict[str, Future[Message]] = {}
        self._serial = itertools.count()
        self.failures: dict[str, BaseException] = {}
        """The last exception of each site's app, whole; the reply carries its class name alone."""

    def close(self) -> None:
        """Ends the site threads; what they are still doing is waited for."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self._nodes)

    def get_nodes(self) -> list[NodeInfo]:
        return [node_info(node, site) for node, site in self._nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            # The hash alone is no key: a round that is repeated sends equal messages.
            key = f"{stamp(message)}-{next(self._serial)}"
            pool = self._pools[message.metadata.dst_node_id]
            self._replies[key] = pool.submit(self._answer, message)
            ids.append(key)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        asked = [key for key in message_ids if key in self._replies]
        # Held a little, as a SuperLink does, so that a reply is had when it is there.
        wait([self._replies[key] for key in asked], _HOLD_SECONDS, FIRST_COMPLETED)
        done = [key for key in asked if self._replies[key].done()]
        return [self._replies.pop(key).result() for key in done]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        ids = self.push_messages(messages)
        for key in ids:
            self._replies[key].exception(timeout)
        return self.pull_messages(ids)

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        site = self._nodes[node]
        fault = self._faults.get(site)
        if fault is not None and fault(message):
            return Message(Error(_NODE_UNAVAILABLE, "node unavailable"), reply_to=message)
        try:
            reply = self._apps[site](message=roundtrip(message), context=self._contexts[node])
        # What the app raises is the site's; the reply says its class, as an agent's does.
        except Exception as err:
            self.failures[site] = err
            reason = type(err).__name__
            if not isinstance(err, FdfedError):
                threading.excepthook(
                    threading.ExceptHookArgs((type(err), err, err.__traceback__, None))
                )
            return Message(Error(_CLIENT_APP_RAISED, reason), reply_to=message)
        stamp(reply)
        return roundtrip(reply)
