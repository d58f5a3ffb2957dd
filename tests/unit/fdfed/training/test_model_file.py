"""Model files: what is written is what is loaded, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import fdfed
from fdfed.errors import InvalidInput
from fdfed.networks import NETWORK_NAMES, SegmentationNetwork, create_network
from fdfed.training.model_file import ModelHeader, SiteDice, load_model, read_header, save_model

CPU = torch.device("cpu")


def network(**changes: Any) -> SegmentationNetwork:
    return create_network(
        **{"name": "unet", "in_channels": 1, "width": 4, "norm": "batch", "size": 32, **changes}
    )


def header(**changes: Any) -> ModelHeader:
    plain = {"network": "unet", "width": 4, "norm": "batch", "in_channels": 1, "size": 32}
    return ModelHeader.model_validate({**plain, "taps": network().tap_names, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, network().state_dict(), header())
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Applies `change` to the header's JSON; the weights stay."""
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["fdfed"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(values)
    save_file(tensors, path, metadata={"fdfed": json.dumps(values)})


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_a_loaded_network_answers_exactly_as_the_saved_one(tmp_path: Path, name: str) -> None:
    size = {"transunet": 256, "swin-unet": 224}.get(name, 32)
    original = network(name=name, size=size).eval()
    names = original.tap_names
    path = tmp_path / "model.safetensors"
    save_model(path, original.state_dict(), header(network=name, size=size, taps=names))
    loaded, _ = load_model(path, CPU)
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), original(image), rtol=0, atol=0)
    assert not loaded.training


def test_the_header_comes_back_as_it_was_written(tmp_path: Path) -> None:
    full = header(
        alpha={"Bot": 0.004},
        threshold=0.4,
        site="udiat",
        round=12,
        phantoms=True,
        dice={"udiat": SiteDice(n=9, mean=0.8, sd=0.1)},
    )
    path = tmp_path / "model.safetensors"
    save_model(path, network().state_dict(), full)
    assert load_model(path, CPU)[1] == full
    assert read_header(path) == full
    assert full.fdfed_version == fdfed.__version__


def test_weights_are_fp32_on_disk_and_counters_int64(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network().double().state_dict(), header())
    with safe_open(path, framework="pt") as file:
        kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    counters = {name for name in kinds if name.endswith("num_batches_tracked")}
    assert counters
    assert {kinds[name] for name in counters} == {torch.int64}
    assert {kind for name, kind in kinds.items() if name not in counters} == {torch.float32}


def test_saving_changes_nothing_in_the_network(tmp_path: Path) -> None:
    state = network().half().state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    save_model(tmp_path / "model.safetensors", state, header())
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert {t.dtype for t in state.values()} == {torch.float16, torch.int64}


def test_loading_draws_nothing_from_the_global_generator(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_model(saved, CPU)
    assert torch.equal(torch.rand(2), expected)


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    state = network().state_dict()
    first, second = [name for name in state if state[name].shape == (4,)][:2]
    state[second] = state[first]
    save_model(tmp_path / "model.safetensors", state, header())
    loaded = load_model(tmp_path / "model.safetensors", CPU)[0].state_dict()
    assert torch.equal(loaded[first], loaded[second])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.safetensors is not a file"):
        load_model(tmp_path / "none.safetensors", CPU)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000])
def test_a_file_that_was_cut_off_is_refused(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(InvalidInput, match="cut off, damaged or another kind of file"):
        load_model(saved, CPU)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(network().state_dict(), path)
    with pytest.raises(InvalidInput, match="another kind of file"):
        load_model(path, CPU)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_another_program_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(InvalidInput, match="without an fdfed header"):
        load_model(path, CPU)


def test_a_file_of_a_later_format_names_the_version_that_wrote_it(saved: Path) -> None:
    rewrite(saved, lambda values: values.update(format=2, fdfed_version="9.1", novelty=True))
    with pytest.raises(InvalidInput, match=r"format 2, written by fdfed 9\.1.*Install that"):
        load_model(saved, CPU)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ("[]", "fdfed header of"), ("[" * 100_000, "is not valid JSON")],
)
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(2)}, path, metadata={"fdfed": text})
    with pytest.raises(InvalidInput, match=message):
        load_model(path, CPU)


def test_a_header_with_values_out_of_range_names_them(saved: Path) -> None:
    rewrite(saved, lambda values: values.update(threshold=2, size=-1))
    with pytest.raises(InvalidInput, match=r"(?s)size: .*threshold: "):
        load_model(saved, CPU)


def test_a_network_that_this_version_lacks_is_named_with_its_file(saved: Path) -> None:
    rewrite(saved, lambda values: values.update(network="of-tomorrow"))
    with pytest.raises(InvalidInput, match=r"model\.safetensors cannot be made here: .*tomorrow"):
        load_model(saved, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 8}, r"is \(64,\), expected \(128,\)"),
        ({"width": 4096}, r"expected \(65536,\)"),  # would take terabytes, if it were built
        ({"in_channels": 3}, r"expected \(4, 3"),
        ({"norm": "group"}, r"no such tensor"),
        ({"taps": ["Enc1"]}, r"taps are Enc1"),
    ],
)
def test_weights_that_are_not_those_of_the_header_are_refused(
    saved: Path, change: dict[str, Any], message: str
) -> None:
    rewrite(saved, lambda values: values.update(change))
    with pytest.raises(InvalidInput, match=message):
        load_model(saved, CPU)


def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {name: t.half() for name, t in network().state_dict().items()}
    save_file(tensors, path, metadata={"fdfed": header().model_dump_json()})
    with pytest.raises(InvalidInput, match=r"is torch\.float16"):
        load_model(path, CPU)
