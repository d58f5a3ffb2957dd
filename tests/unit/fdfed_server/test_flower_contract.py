"""Every private Flower symbol that the coordinator calls, held to the form that is relied on.

When Flower is upgraded this is the list to go through: what fails here has moved.
"""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import uvicorn
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_PATIENCE,
    ISOLATION_MODE_PROCESS,
    TRANSPORT_TYPE_GRPC_RERE,
    SubStatus,
)
from flwr.proto import control_pb2, message_pb2, node_pb2, runtime_pb2, task_pb2
from flwr.supercore.constant import NodeStatus
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.routers.fleet.router import router

from fdfed_server.flower.surface import PUBLIC_PATHS
from tests.private_symbols import fields_of, parameters_of

SIGNATURES = {
    "flwr.app.message:make_message": ("metadata", "content", "error"),
    "flwr.app.message:remove_content_from_message": ("message",),
    "flwr.common.serde:context_from_proto": ("context_proto",),
    "flwr.common.serde:fab_to_proto": ("fab",),
    "flwr.common.serde:message_from_proto": ("message_proto",),
    "flwr.common.serde:message_to_proto": ("message",),
    "flwr.server.superlink.linkstate:SqlLinkState.session": ("self",),
    "flwr.server.superlink.linkstate:SqlLinkState.store_object": (
        "self",
        "run_id",
        "session_id",
        "object_id",
        "object_content",
    ),
    "flwr.common.serde:run_from_proto": ("run_proto",),
    "flwr.supercore.control.control_http_client:ControlHttpClient.ListNodes": ("self", "request"),
    "flwr.supercore.control.control_http_client:ControlHttpClient.ListRuns": ("self", "request"),
    "flwr.supercore.control.control_http_client:ControlHttpClient.RegisterNode": (
        "self",
        "request",
    ),
    "flwr.supercore.control.control_http_client:ControlHttpClient.StartRun": ("self", "request"),
    "flwr.supercore.control.control_http_client:ControlHttpClient.StopRun": ("self", "request"),
    "flwr.supercore.control.control_http_client:ControlHttpClient.UnregisterNode": (
        "self",
        "request",
    ),
    "flwr.supercore.fab:Fab": ("hash_str", "content", "verifications"),
    "flwr.supercore.heartbeat:HeartbeatSender": ("heartbeat_fn",),
    "flwr.supercore.heartbeat:HeartbeatSender.start": ("self",),
    "flwr.supercore.heartbeat:HeartbeatSender.stop": ("self",),
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": ("obj",),
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": ("tree",),
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": (),
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_pull_object_fn_protobuf": (
        "pull_object_protobuf",
        "node",
        "run_id",
    ),
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_push_object_fn_protobuf": (
        "push_object_protobuf",
        "node",
        "run_id",
        "session_id",
    ),
    "flwr.supercore.inflatable.inflatable_utils:ObjectPushError": (
        "object_id",
        "run_id",
        "session_id",
    ),
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": (
        "object_id",
        "object_contents",
        "keep_object_contents",
        "objects",
    ),
    "flwr.supercore.inflatable.inflatable_utils:pull_objects": (
        "object_ids",
        "pull_object_fn",
        "max_concurrent_pulls",
        "max_time",
        "max_tries_per_object",
        "initial_backoff",
        "backoff_cap",
    ),
    "flwr.supercore.inflatable.inflatable_utils:push_object_contents_from_iterable": (
        "object_contents",
        "push_object_fn",
        "max_concurrent_pushes",
    ),
    "flwr.supercore.interceptors:RuntimeTokenHttpInterceptor": ("token",),
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": ("component_name",),
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor": (
        "master_secret",
        "protected_methods",
    ),
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": ("public_key",),
    "flwr.supercore.object_store:ObjectStore.delete": ("self", "object_id"),
    "flwr.supercore.protobuf.client:ProtobufClient._unary_unary": (
        "self",
        "path",
        "rpc_method",
        "request",
        "response_type",
        "timeout",
    ),
    "flwr.supercore.protobuf.client:ProtobufClient.from_server_address": (
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
        "retry_invoker",
    ),
    "flwr.supercore.retry:RetryInvoker.invoke": ("self", "target", "args", "kwargs"),
    "flwr.supercore.retry.retry_invoker:exponential": ("base_delay", "multiplier", "max_delay"),
    "flwr.supercore.run:Run.create_empty": ("run_id",),
    "flwr.supercore.runtime:RuntimeHttpClient.AcquireTask": ("self", "request"),
    "flwr.supercore.runtime:RuntimeHttpClient.ConfirmMessageReceived": ("self", "request"),
    "flwr.supercore.runtime:RuntimeHttpClient.GetNodes": ("self", "request"),
    "flwr.supercore.runtime:RuntimeHttpClient.PullObject": ("self", "request"),
    "flwr.supercore.runtime:RuntimeHttpClient.PushObject": ("self", "request"),
    "flwr.supercore.runtime:RuntimeHttpClient.PullTaskInput": ("self", "request"),
    "flwr.supercore.runtime:RuntimeHttpClient.PushTaskOutput": ("self", "request"),
    "flwr.supercore.runtime:RuntimeHttpClient.SendTaskHeartbeat": ("self", "request"),
    "flwr.superlink.cli.flower_superlink:SuperLinkLifespan": ("config", "state_factory"),
    "flwr.superlink.config_loader:load_control_authn_plugin": (),
    "flwr.superlink.main:create_app": ("config", "superlink_lifespan_class"),
}

PROTO_FIELDS = {
    control_pb2.ListNodesResponse: {"nodes_info"},
    control_pb2.ListRunsRequest: {"limit"},
    control_pb2.ListRunsResponse: {"run_dict"},
    control_pb2.RegisterNodeRequest: {"public_key", "name"},
    control_pb2.StartRunRequest: {"fab"},
    control_pb2.StartRunResponse: {"run_id"},
    control_pb2.StopRunRequest: {"run_id"},
    control_pb2.UnregisterNodeRequest: {"node_id"},
    message_pb2.ConfirmMessageReceivedRequest: {"node", "run_id", "message_object_id"},
    node_pb2.NodeInfo: {"node_id", "name", "status", "public_key"},
    runtime_pb2.AcquireTaskRequest: {"supported_task_types"},
    runtime_pb2.AcquireTaskResponse: {"task", "token"},
    runtime_pb2.PullAppMessagesRequest: {"message_ids"},
    runtime_pb2.PullAppMessagesResponse: {"messages_list", "message_object_trees"},
    runtime_pb2.PushAppMessagesRequest: {"messages_list", "message_object_trees"},
    runtime_pb2.PushAppMessagesResponse: {"message_ids", "objects_to_push", "session_id"},
    runtime_pb2.PullTaskInputResponse: {"context", "run", "task_id"},
    runtime_pb2.PushTaskOutputRequest: {"sub_status", "details"},
    task_pb2.Task: {"run_id"},
}


@pytest.mark.parametrize("reference", SIGNATURES)
def test_a_private_symbol_exists_with_the_arguments_that_we_give(reference: str) -> None:
    assert parameters_of(reference) == SIGNATURES[reference]


@pytest.mark.parametrize("message", PROTO_FIELDS, ids=lambda m: m.DESCRIPTOR.name)
def test_a_protobuf_message_has_the_fields_that_we_use(message: type) -> None:
    assert PROTO_FIELDS[message] <= fields_of(message)  # type: ignore[index]


def test_the_superlinks_configuration_has_exactly_the_fields_that_the_child_fills() -> None:
    names = {field.name for field in dataclasses.fields(SuperLinkLifespanConfig)}
    assert names == {
        "artifact_provider",
        "authn_plugin",
        "certificates",
        "control_address",
        "database",
        "enable_event_log",
        "enable_supernode_auth",
        "event_log_plugin",
        "fleet_api_address",
        "fleet_api_type",
        "fleet_event_log_plugin",
        "health_server_address",
        "host",
        "insecure",
        "isolation",
        "port",
        "runtime_dependency_install",
        "simulation",
        "ssl_ca_certfile",
        "ssl_certfile",
        "ssl_keyfile",
        "superexec_auth_secret",
    }


def test_constants_have_the_values_that_the_timings_rely_on() -> None:
    assert (HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE) == (30, 2)
    assert (NodeStatus.ONLINE, NodeStatus.UNREGISTERED) == ("online", "unregistered")
    assert (SubStatus.COMPLETED, SubStatus.FAILED) == ("completed", "failed")
    assert (ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE) == ("process", "grpc-rere")


def test_the_public_paths_are_flowers_and_leave_out_registering_and_the_bundle() -> None:
    flowers = {route.path for route in router.routes}  # type: ignore[attr-defined]
    ours = {path for path in PUBLIC_PATHS if path.startswith("/v1/")}
    added = {path.removeprefix("/v1/fleet/") for path in ours - flowers}
    assert added == {"pull-parcel", "push-parcel"}
    left_out = {path.removeprefix("/v1/fleet/") for path in flowers - ours}
    assert left_out == {
        "register-node",
        "unregister-node",
        "get-run",
        "get-fab",
        "pull-messages",
        "push-messages",
    }


def test_uvicorn_lets_a_second_server_leave_signals_alone() -> None:
    assert tuple(inspect.signature(uvicorn.Server.capture_signals).parameters) == ("self",)
    assert "capture_signals()" in inspect.getsource(uvicorn.Server.serve)
