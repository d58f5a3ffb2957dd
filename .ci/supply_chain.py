"""What fdfed runs on: a bill of materials (CycloneDX), and an audit for known vulnerabilities.

    python .ci/supply_chain.py sbom FILE
    python .ci/supply_chain.py audit FILE

The bill lists this environment's packages that an installed fdfed needs, with the versions and
licences that they have here, and none of the tools for its development. The audit asks the
vulnerability service of PyPI about every pinned version.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOUND = 1
NOT_AUDITED = 4


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, without its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


def needs(asked: Iterable[Requirement]) -> dict[str, set[str]]:
    """By name, every package that these need here, in turn too, and what each needs itself.

    (The tool's own graph has the edges of all extras, those of tests and documents too.)
    """
    found: dict[str, set[str]] = {}
    waiting = [(normal(one.name), frozenset({"", *one.extras})) for one in asked]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            sys.exit(f"{name} is not installed here; run `make` anew")
        edges = found.setdefault(name, set())
        for needed in map(Requirement, lines):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                edges.add(normal(needed.name))
                waiting.append((normal(needed.name), frozenset({"", *needed.extras})))
    return found


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version() -> str:
    """Of this checkout."""
    text = (ROOT / "fdfed" / "__init__.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'__version__ = "(.+)"', text)
    return str(found)


def environment() -> dict[str, Any]:
    """The bill of everything that is installed here."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sbom.json"
        tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate"]
        subject = ["--pyproject", str(ROOT / "pyproject.toml"), "-o", str(out), sys.executable]
        subprocess.run([*tool, *subject], check=True)  # noqa: S603  (our own interpreter)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def runtime(bill: Mapping[str, Any], asked: Sequence[Requirement]) -> dict[str, Any]:
    """The bill with what these requirements need, and nothing else."""
    edges = needs(asked)
    components = [c for c in bill["components"] if normal(c["name"]) in edges]
    refs = {normal(component["name"]): component["bom-ref"] for component in components}
    root = dict(bill["metadata"]["component"], version=version())
    named = {root["bom-ref"]: {normal(one.name) for one in asked}}
    named |= {refs[name]: edges[name] for name in refs}
    return {
        **bill,
        "metadata": {**bill["metadata"], "component": root},
        "components": components,
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(refs[name] for name in names)}
            if names
            else {"ref": ref}
            for ref, names in named.items()
        ],
    }


def check_form(bill: Mapping[str, Any]) -> None:
    """Whether it is of the form of CycloneDX 1.6."""
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    if fault is not None:
        sys.exit(f"the bill is not of the form of CycloneDX 1.6: {fault}")


def sbom(out: Path) -> None:
    """Writes the bill."""
    bill = runtime(environment(), requirements())
    check_form(bill)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {len(bill['components'])} packages")  # noqa: T201


def audit(out: Path) -> None:
    """Writes what is known against the pinned versions.

    Exits with 1 if there is something, and with 4 if the service could not be asked: an audit that
    did not take place has found nothing, which must not be read as that there is nothing.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    tool = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--timeout=15"]
    pins = ["--no-deps", "--disable-pip", "-r", str(ROOT / "constraints.txt")]
    form = ["--format=json", "--output", str(out)]
    done = subprocess.run(  # noqa: S603  (our own interpreter)
        [*tool, *pins, *form], capture_output=True, text=True, check=False
    )
    if not out.exists():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        sys.stderr.write(
            "NOTHING WAS AUDITED: pip-audit could not ask https://pypi.org for known "
            f"vulnerabilities. Run this where that can be reached. It said: {last[:300]}\n"
        )
        sys.exit(NOT_AUDITED)
    entries = json.loads(out.read_text(encoding="utf-8"))["dependencies"]
    hit = [entry for entry in entries if entry.get("vulns")]
    for entry in hit:
        known = ", ".join(vulnerability["id"] for vulnerability in entry["vulns"])
        print(f"{entry['name']} {entry['version']}: {known}")  # noqa: T201
    print(f"{out}: {len(hit)} of {len(entries)} packages have known vulnerabilities")  # noqa: T201
    if hit:
        sys.exit(FOUND)


if __name__ == "__main__":
    {"sbom": sbom, "audit": audit}[sys.argv[1]](Path(sys.argv[2]))
