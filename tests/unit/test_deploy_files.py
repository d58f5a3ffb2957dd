"""The container files are of the forms that their programs define, and closed as they claim."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import typer.main
import yaml

from tests.unit.test_deploy import APPS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
KUBERNETES = "1.33"
EVERYWHERE = "0.0.0.0"  # noqa: S104  (inside a container's own network)


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text("utf-8"))
    return document


def manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yml"))
    return [doc for path in files for doc in yaml.safe_load_all(path.read_text("utf-8"))]


def pod() -> dict[str, Any]:
    (stateful,) = [doc for doc in manifests() if doc["kind"] == "StatefulSet"]
    spec: dict[str, Any] = stateful["spec"]["template"]["spec"]
    return spec


def program(path: str | Path) -> str:
    found = shutil.which(
        path, path=os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
    )
    assert found, f"{path} is not installed; it comes with the extra `dev`"
    return found


def instructions(target: str) -> dict[str, str]:
    """The instructions of one stage of the Dockerfile; of several of one name the last."""
    joined = DOCKERFILE.replace("\\\n", " ")
    (stage,) = re.findall(rf"^FROM \S+ AS {target}\n(.*?)(?=^FROM |\Z)", joined, re.M | re.S)
    return dict(line.split(" ", 1) for line in stage.splitlines() if line and line[0].isupper())


def check_command(name: str, words: list[str]) -> dict[str, Any]:
    """The options that the words give to the program `name`; all of them are its own."""
    command: click.Command = typer.main.get_command(APPS[name])
    if isinstance(command, click.Group) and not words[0].startswith("-"):
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known
    parsed: dict[str, Any] = command.make_parser(click.Context(command)).parse_args(args=words)[0]
    return parsed


def test_the_dockerfile_has_no_fault_that_its_linter_knows() -> None:
    done = subprocess.run(
        [program("hadolint"), DEPLOY / "docker" / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_image_runs_without_privileges_and_takes_its_packages_from_the_constraints() -> None:
    assert instructions("base")["USER"] == "${UID}:${UID}"
    assert "ARG UID=10001" in DOCKERFILE
    assert "PIP_CONSTRAINT=/tmp/constraints.txt" in instructions("installed")["ENV"]
    assert DOCKERFILE.count("pip wheel") == 1


@pytest.mark.parametrize(
    ("target", "entry", "port"),
    [("coordinator", "fdfed-server", 9464), ("agent", "fdfed-client", 9465)],
)
def test_an_image_starts_its_side_and_asks_for_its_readiness(
    target: str, entry: str, port: int
) -> None:
    stage = instructions(target)
    assert json.loads(stage["ENTRYPOINT"]) == [entry]
    assert f"127.0.0.1:{port}/readyz" in stage["HEALTHCHECK"]


def test_nothing_but_what_makes_the_wheel_reaches_a_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    words = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    copied = {source for line in words for source in line.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)
    for secret in ("fdfed/server.key", "server/fdfed_server/ca.pem"):
        assert any(fnmatch.fnmatch(secret, line) for line in lines[1:] if not line.startswith("!"))


@pytest.mark.parametrize("name", ["compose.yml", "compose.cuda.yml"])
def test_a_compose_file_is_of_the_form_that_compose_defines(name: str) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, DEPLOY / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", compose()["services"])
def test_a_service_of_the_compose_file_is_closed(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    for published in service.get("ports", []):
        public = name == "coordinator" and published in ("8443:8443", "8444:8444")
        assert public or published.startswith("127.0.0.1:"), published


@pytest.mark.parametrize("name", ["coordinator", "site-tnbc", "site-monuseg"])
def test_a_service_of_the_compose_file_gives_a_command_options_that_it_has(name: str) -> None:
    service = compose()["services"][name]
    entry = json.loads(instructions(service["build"]["target"])["ENTRYPOINT"])[0]
    parsed = check_command(entry, list(service["command"]))
    assert parsed["log_format"] == "json"
    # On the container's own loopback nobody could read them.
    assert parsed["watch_bind"] == EVERYWHERE


def test_what_the_compose_file_mounts_from_here_is_here() -> None:
    for service in compose()["services"].values():
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (DEPLOY / volume.split(":")[0]).exists(), volume


@pytest.mark.parametrize(
    "document", manifests(), ids=lambda doc: f"{doc['kind']}-{doc['metadata']['name']}"
)
def test_a_manifest_is_of_the_form_that_kubernetes_defines(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_manifest_with_a_misspelt_field_is_found() -> None:
    (stateful,) = [doc for doc in manifests() if doc["kind"] == "StatefulSet"]
    stateful["spec"]["template"]["spec"]["automountServiceAcountToken"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(stateful, KUBERNETES, strict=True)


def test_the_pod_is_what_the_restricted_standard_asks_for() -> None:
    spec = pod()
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pod_is_probed_where_the_coordinator_answers() -> None:
    (container,) = pod()["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"fleet": 8443, "exchange": 8444, "metrics": 9464, "console": 8080}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    parsed = check_command("fdfed-server", list(container["args"]))
    assert parsed["watch_bind"] == EVERYWHERE
    assert parsed["stay"], "a StatefulSet would start a complete run again and again"


def test_every_mount_of_the_pod_has_its_volume() -> None:
    spec = pod()
    (stateful,) = [doc for doc in manifests() if doc["kind"] == "StatefulSet"]
    claims = {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in spec["volumes"]} | claims
    assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == volumes


def test_the_services_and_the_policy_meet_the_pod() -> None:
    label = {"app.kubernetes.io/name": "fdfed-coordinator"}
    names = {port["name"] for port in pod()["containers"][0]["ports"]}
    for document in manifests():
        if document["kind"] == "Service":
            assert document["spec"]["selector"] == label
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= names
        if document["kind"] == "NetworkPolicy":
            assert document["spec"]["podSelector"]["matchLabels"] == label
            assert document["spec"]["egress"] == []


def test_the_commands_of_the_deployment_guide_name_files_that_are_here() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for line in re.findall(r"^(?:sudo )?(?:docker|kubectl|install) .*$", text, re.MULTILINE):
        for word in shlex.split(line):
            if word.startswith("deploy/"):
                assert list(ROOT.glob(word)), line
