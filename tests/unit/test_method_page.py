"""What `docs/METHOD.md` says in tables is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fdfed.config import RunPlan, parse
from fdfed.networks import NETWORK_NAMES, create_network

PAGE = (Path(__file__).parents[2] / "docs" / "METHOD.md").read_text(encoding="utf-8")


def rows_of(section: str) -> dict[str, list[str]]:
    """The table of a section: the cells of each row, by the name in its first one."""
    text = PAGE.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    return {row[0]: row[1:] for row in rows}


def test_the_page_lists_every_network() -> None:
    assert tuple(rows_of("Networks and taps")) == NETWORK_NAMES


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_a_networks_taps_parameters_and_sizes_are_those_of_the_page(name: str) -> None:
    channels, parameters, sides, _ = rows_of("Networks and taps")[name]
    with torch.device("meta"):
        network = create_network(name, in_channels=3)
    values = list(network.tap_channels.values())
    assert [int(c) for c in re.findall(r"\d+", channels)] == values
    bottom = re.search(r"\((\d+)\)", channels)
    assert bottom is not None
    assert int(bottom[1]) == network.tap_channels["Bot"]
    assert int(parameters.replace(",", "")) == sum(p.numel() for p in network.parameters())
    fixed = "" if network.fixed_size is None else f", fixed at {network.fixed_size}"
    assert sides == f"{network.size_multiple}{fixed}"


@pytest.mark.parametrize(("column", "preset"), [(0, "fdfed"), (1, "paper")])
def test_the_options_of_the_page_are_those_of_the_presets(column: int, preset: str) -> None:
    plan = parse(RunPlan, {"preset": preset}, source="the test").model_dump()
    written = {name: cells[column] for name, cells in rows_of("Options").items()}
    found = {}
    for name in written:
        *table, key = name.split(".")
        value = (plan[table[0]] if table else plan)[key]
        found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    assert written == found
    assert {name for name in written if name.startswith("method.")} == {
        f"method.{key}" for key in plan["method"]
    }
