"""Every private Flower symbol that the agent calls, held to the form that is relied on.

When Flower is upgraded this is the list to go through: what fails here has moved.
"""

from __future__ import annotations

import pytest
from flwr.common.constant import (
    HEARTBEAT_MAX_INTERVAL,
    HEARTBEAT_MIN_INTERVAL,
    HEARTBEAT_PATIENCE,
    SYSTEM_TIME_TOLERANCE,
    ErrorCode,
)
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2
from flwr.supercore.constant import OBJECT_PUSH_SESSION_TTL_SECONDS

from tests.private_symbols import fields_of, parameters_of

FLEET = "flwr.supernode.fleet_http_client:FleetHttpClient"
INFLATABLE = "flwr.supercore.inflatable"
SIGNATURES = {
    **{
        f"{FLEET}.{call}": ("self", "request")
        for call in (
            "ActivateNode",
            "ConfirmMessageReceived",
            "DeactivateNode",
            "PullObject",
            "PushObject",
            "SendNodeHeartbeat",
        )
    },
    f"{FLEET}._unary_unary": (
        "self",
        "path",
        "rpc_method",
        "request",
        "response_type",
        "timeout",
    ),
    f"{FLEET}.close": ("self",),
    f"{FLEET}.from_server_address": (
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
        "retry_invoker",
    ),
    "flwr.app.message:remove_content_from_message": ("message",),
    "flwr.common.serde:message_from_proto": ("message_proto",),
    "flwr.common.serde:message_to_proto": ("message",),
    f"{INFLATABLE}.inflatable_object:get_all_nested_objects": ("obj",),
    f"{INFLATABLE}.inflatable_object:iterate_object_tree": ("tree",),
    f"{INFLATABLE}.inflatable_object:no_object_id_recompute": (),
    f"{INFLATABLE}.inflatable_utils:ObjectPullError": ("object_id", "reason"),
    f"{INFLATABLE}.inflatable_utils:ObjectPushError": ("object_id", "run_id", "session_id"),
    f"{INFLATABLE}.inflatable_utils:ObjectUnavailableError": ("object_id",),
    f"{INFLATABLE}.inflatable_utils:inflate_object_from_contents": (
        "object_id",
        "object_contents",
        "keep_object_contents",
        "objects",
    ),
    f"{INFLATABLE}.inflatable_utils:pull_objects": (
        "object_ids",
        "pull_object_fn",
        "max_concurrent_pulls",
        "max_time",
        "max_tries_per_object",
        "initial_backoff",
        "backoff_cap",
    ),
    f"{INFLATABLE}.inflatable_utils:push_object_contents_from_iterable": (
        "object_contents",
        "push_object_fn",
        "max_concurrent_pushes",
    ),
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": ("public_key",),
    "flwr.supercore.protobuf.client:ProtobufRequestContext": (
        "rpc_method",
        "message",
        "request",
    ),
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": (
        "private_key",
        "public_key",
    ),
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor.intercept": (
        "self",
        "context",
        "call_next",
    ),
}

PROTO_FIELDS = {
    fleet_pb2.ActivateNodeRequest: {"public_key", "heartbeat_interval"},
    fleet_pb2.ActivateNodeResponse: {"node_id"},
    fleet_pb2.DeactivateNodeRequest: {"node_id"},
    fleet_pb2.PullMessagesRequest: {"node"},
    fleet_pb2.PullMessagesResponse: {"messages_list", "message_object_trees"},
    fleet_pb2.PushMessagesRequest: {
        "node",
        "messages_list",
        "message_object_trees",
        "clientapp_runtime_list",
    },
    fleet_pb2.PushMessagesResponse: {"objects_to_push", "session_id"},
    heartbeat_pb2.SendNodeHeartbeatRequest: {"node", "heartbeat_interval"},
    heartbeat_pb2.SendNodeHeartbeatResponse: {"success"},
    message_pb2.ConfirmMessageReceivedRequest: {"node", "run_id", "message_object_id"},
    message_pb2.PullObjectRequest: {"node", "run_id", "object_id"},
    message_pb2.PullObjectResponse: {"object_found", "object_available", "object_content"},
    message_pb2.PushObjectRequest: {
        "node",
        "run_id",
        "object_id",
        "object_content",
        "session_id",
    },
    message_pb2.PushObjectResponse: {"stored"},
    node_pb2.Node: {"node_id"},
}


@pytest.mark.parametrize("reference", SIGNATURES)
def test_a_private_symbol_exists_with_the_arguments_that_we_give(reference: str) -> None:
    assert parameters_of(reference) == SIGNATURES[reference]


@pytest.mark.parametrize("message", PROTO_FIELDS, ids=lambda m: m.DESCRIPTOR.name)
def test_a_protobuf_message_has_the_fields_that_we_use(message: type) -> None:
    assert PROTO_FIELDS[message] <= fields_of(message)  # type: ignore[index]


def test_constants_have_the_values_that_the_timings_and_texts_rely_on() -> None:
    assert (HEARTBEAT_MIN_INTERVAL, HEARTBEAT_MAX_INTERVAL, HEARTBEAT_PATIENCE) == (10, 1800, 2)
    assert SYSTEM_TIME_TOLERANCE == 5
    assert OBJECT_PUSH_SESSION_TTL_SECONDS == 180
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2
