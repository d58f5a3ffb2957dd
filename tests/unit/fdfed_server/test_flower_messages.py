"""Messages, runs and identities that an in-process grid makes by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fdfed_server.flower import empty_run, node_info, roundtrip, set_task_identity, stamp


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    set_task_identity(task_id=1, run_id=7, node_id=1)
    yield
    set_task_identity(task_id=1, run_id=1, node_id=1)


def _message() -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.arange(4.0))}),
            "config": ConfigRecord({"round": 3, "plan": "{}"}),
        }
    )
    return Message(content, dst_node_id=5, message_type="train")


def test_a_message_is_stamped_with_the_identity_of_the_process() -> None:
    message = _message()
    assert (message.metadata.run_id, message.metadata.src_node_id) == (7, 1)


def test_a_round_trip_keeps_content_and_id_and_shares_no_memory() -> None:
    message = _message()
    copy = roundtrip(message)
    assert copy.metadata.message_id == stamp(message) == message.metadata.message_id
    assert copy.content["config"] == message.content["config"]
    before = copy.content["arrays"]["w"].numpy()
    message.content["arrays"]["w"] = Array(np.zeros(4))
    np.testing.assert_array_equal(copy.content["arrays"]["w"].numpy(), before)
    np.testing.assert_array_equal(before, [0.0, 1.0, 2.0, 3.0])


def test_an_error_reply_survives_the_round_trip_and_names_its_question() -> None:
    message = roundtrip(_message())
    reply = roundtrip(Message(Error(2, "DataError"), reply_to=message))
    assert reply.error.reason == "DataError"
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


def test_a_hand_made_run_and_node_have_the_fields_that_a_grid_reports() -> None:
    assert empty_run(7).run_id == 7
    node = node_info(9, "udiat", public_key=b"k")
    assert (node.node_id, node.name, node.public_key, node.status) == (9, "udiat", b"k", "online")
