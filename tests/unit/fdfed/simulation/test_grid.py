"""The grid whose nodes are threads of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fdfed.errors import DataError
from fdfed.simulation import InProcessGrid
from fdfed_server.flower import site_nodes

Handle = Callable[[RecordDict], RecordDict]


def app_of(handle: Handle) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return Message(handle(message.content), reply_to=message)

    return app


def record(number: int = 0) -> RecordDict:
    array = ArrayRecord({"w": Array(np.full(3, number, dtype=np.float32))})
    return RecordDict({"fdfed": ConfigRecord({"number": number}), "weights": array})


@pytest.fixture
def opened() -> Iterator[Callable[..., InProcessGrid]]:
    grids: list[InProcessGrid] = []

    def make(**handles: Handle) -> InProcessGrid:
        faults = handles.pop("faults", None)
        apps = {site: app_of(handle) for site, handle in handles.items()}
        grids.append(InProcessGrid(apps, faults=faults))  # type: ignore[arg-type]
        return grids[-1]

    yield make
    for grid in grids:
        grid.close()


def ask(grid: InProcessGrid, **contents: RecordDict) -> dict[str, Message]:
    nodes = site_nodes(grid)
    messages = [
        Message(content, dst_node_id=nodes[site], message_type="train", group_id="1")
        for site, content in contents.items()
    ]
    replies = grid.send_and_receive(messages, timeout=30.0)
    names = {node: site for site, node in nodes.items()}
    return {names[reply.metadata.src_node_id]: reply for reply in replies}


def test_every_site_is_a_node_under_its_name_in_order(
    opened: Callable[..., InProcessGrid],
) -> None:
    grid = opened(b=lambda r: r, a=lambda r: r)
    assert list(site_nodes(grid)) == ["b", "a"]
    assert list(grid.get_node_ids()) == list(site_nodes(grid).values())


def test_a_message_reaches_its_site_and_the_reply_comes_back(
    opened: Callable[..., InProcessGrid],
) -> None:
    grid = opened(a=lambda r: record(1), b=lambda r: record(2))
    replies = ask(grid, a=record(), b=record())
    assert {site: reply.content["fdfed"]["number"] for site, reply in replies.items()} == {
        "a": 1,
        "b": 2,
    }


def test_messages_share_no_memory_with_their_sender(
    opened: Callable[..., InProcessGrid],
) -> None:
    kept: list[RecordDict] = []

    def keep(content: RecordDict) -> RecordDict:
        kept.append(content)
        answer = record(5)
        kept.append(answer)
        return answer

    sent = record(3)
    reply = ask(opened(a=keep), a=sent)["a"]
    assert kept[0] is not sent
    assert kept[0]["weights"]["w"].data == sent["weights"]["w"].data
    assert reply.content is not kept[1]


def test_sites_work_at_the_same_time(opened: Callable[..., InProcessGrid]) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(content: RecordDict) -> RecordDict:
        meeting.wait()
        return content

    assert len(ask(opened(a=meet, b=meet), a=record(), b=record())) == 2


def test_a_repeated_message_is_answered_each_time(opened: Callable[..., InProcessGrid]) -> None:
    calls: list[int] = []

    def count(content: RecordDict) -> RecordDict:
        calls.append(1)
        return content

    grid = opened(a=count)
    node = site_nodes(grid)["a"]
    messages = [Message(record(), dst_node_id=node, message_type="train") for _ in range(2)]
    assert len(grid.send_and_receive(messages, timeout=30.0)) == 2
    assert len(calls) == 2


def test_a_reply_is_handed_out_once(opened: Callable[..., InProcessGrid]) -> None:
    grid = opened(a=lambda r: r)
    node = site_nodes(grid)["a"]
    ids = grid.push_messages([Message(record(), dst_node_id=node, message_type="train")])
    deadline = time.monotonic() + 20
    while not (found := grid.pull_messages(ids)):
        assert time.monotonic() < deadline
    assert len(found) == 1
    assert grid.pull_messages(ids) == []
    assert grid.pull_messages(["unknown"]) == []


def test_a_failure_says_its_class_alone_and_keeps_the_whole_for_the_site(
    opened: Callable[..., InProcessGrid],
) -> None:
    def fail(_: RecordDict) -> RecordDict:
        raise DataError("patient_007.png has no mask")

    grid = opened(a=fail, b=lambda r: r)
    replies = ask(grid, a=record(), b=record())
    assert replies["a"].has_error()
    assert replies["a"].error.reason == "DataError"
    assert "patient" not in str(replies["a"].error)
    assert "patient_007" in str(grid.failures["a"])
    assert replies["b"].has_content()


def test_a_bug_in_a_site_shows_its_traceback_and_is_an_error_reply(
    opened: Callable[..., InProcessGrid], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[type[BaseException] | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args.exc_type))

    def bug(_: RecordDict) -> RecordDict:
        raise KeyError("x")

    assert ask(opened(a=bug), a=record())["a"].error.reason == "KeyError"
    assert shown == [KeyError]


def test_a_message_that_meets_a_fault_never_reaches_the_site(
    opened: Callable[..., InProcessGrid],
) -> None:
    calls: list[int] = []

    def count(content: RecordDict) -> RecordDict:
        calls.append(1)
        return content

    grid = opened(a=count, faults={"a": lambda _: True})
    reply = ask(grid, a=record())["a"]
    assert reply.error.reason == "node unavailable"
    assert calls == []
