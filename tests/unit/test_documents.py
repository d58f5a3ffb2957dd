"""What the documents tell people to type exists, and the README's Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import torch
import typer.main

from fdfed.cli.main import app as fdfed
from fdfed_client.cli.main import app as client
from fdfed_server.cli.main import app as server

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
APPS = {"fdfed": fdfed, "fdfed-server": server, "fdfed-client": client}


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        for block in fenced(path.read_text(encoding="utf-8"), "(?:sh|bash|console)?"):
            joined = block.replace("\\\n", " ")
            for line in joined.splitlines():
                words = line.strip().removeprefix("$ ")
                if words.split(" ")[0] in APPS:
                    found.append((str(path.relative_to(ROOT)), words.split("  #")[0]))
    return found


@pytest.mark.parametrize(("document", "line"), commands())
def test_every_command_in_the_documents_has_its_options(document: str, line: str) -> None:
    name, *words = shlex.split(line)
    command: click.Command = typer.main.get_command(APPS[name])
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        subcommand = command.commands.get(words[0])
        assert subcommand is not None, f"{document}: {name} has no command {words[0]}"
        command, words = subcommand, words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known, f"{document}: {name} does not know {used - known}"


def test_the_documents_name_commands_at_all() -> None:
    assert len(commands()) >= 6


def test_the_python_of_the_readme_runs() -> None:
    blocks = fenced((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    assert blocks
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 8:20, 8:20] = 1
    names = {"image": torch.rand(2, 3, 32, 32), "mask": mask}
    for block in blocks:
        exec(compile(block.replace("width=32", "width=4"), "README.md", "exec"), names)  # noqa: S102
    loss = names["loss"]
    assert torch.isfinite(loss.detach())
    loss.backward()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
