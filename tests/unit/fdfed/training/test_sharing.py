"""Which tensors travel, and how they enter a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fdfed.config import STRATEGY_NAMES, RunPlan
from fdfed.errors import WireError
from fdfed.training.initialise import initial_network
from fdfed.training.sharing import put_tensors_, shared_names, take_tensors

PlanOf = Callable[..., RunPlan]
NETWORKS = ("unet", "attention-unet")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_each_strategy_shares_the_tensors_that_its_source_says(
    plan_of: PlanOf, network: str, strategy: str
) -> None:
    model = initial_network(plan_of(network=network))
    names = shared_names(model, strategy)
    everything = tuple(model.state_dict())
    norms = [p for p, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    of_norms = {n for n in everything if n.rpartition(".")[0] in norms}
    assert of_norms
    if strategy == "local":
        assert names == ()
    elif strategy == "fedbn":
        assert names == tuple(n for n in everything if n not in of_norms)
    else:
        assert names == everything


def test_fedbn_keeps_scale_and_shift_of_other_normalisations_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.LayerNorm(4))
    assert shared_names(model, "fedbn") == ("0.weight", "0.bias")


def test_a_name_that_only_begins_like_a_normalisation_is_shared() -> None:
    model = nn.ModuleDict({"norm": nn.BatchNorm2d(2), "norm2": nn.Conv2d(2, 2, 1)})
    assert shared_names(model, "fedbn") == ("norm2.weight", "norm2.bias")


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_tensors_taken_and_put_back_are_the_same_bits(plan_of: PlanOf, precision: str) -> None:
    plan = plan_of(precision=precision)
    source = initial_network(plan)
    target = initial_network(plan.model_copy(update={"seed": 7}))
    taken = take_tensors(source, tuple(source.state_dict()))
    put_tensors_(target, taken)
    for name, tensor in target.state_dict().items():
        assert tensor.numpy().tobytes() == taken[name].tobytes()
        assert tensor.numpy().dtype == taken[name].dtype


def test_tensors_taken_are_copies(plan_of: PlanOf) -> None:
    network = initial_network(plan_of())
    name = next(iter(network.state_dict()))
    taken = take_tensors(network, (name,))
    taken[name][...] = 7
    assert not (network.state_dict()[name] == 7).any()


def test_read_only_arrays_from_the_wire_can_be_put(plan_of: PlanOf) -> None:
    network = initial_network(plan_of())
    tensors = take_tensors(network, tuple(network.state_dict()))
    for value in tensors.values():
        value.setflags(write=False)
    put_tensors_(network, tensors)


def _wrong_shape(value: np.ndarray) -> np.ndarray:
    return np.zeros((*value.shape, 1), value.dtype)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(_wrong_shape, r"float32 \(.*, 1\); this network has float32", id="shape"),
        pytest.param(lambda v: v.astype(np.float64), "is float64", id="dtype"),
        pytest.param(lambda v: v.astype(np.float16), "is float16", id="half"),
        pytest.param(lambda v: v.astype(">f4"), "is >f4", id="byte order"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    plan_of: PlanOf, spoil: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    network = initial_network(plan_of())
    name = next(iter(network.state_dict()))
    tensor = spoil(take_tensors(network, (name,))[name])
    with pytest.raises(WireError, match=message):
        put_tensors_(network, {name: tensor})


def test_a_tensor_of_another_network_is_refused(plan_of: PlanOf) -> None:
    with pytest.raises(WireError, match=r"'other\.weight' is not one of this network's"):
        put_tensors_(initial_network(plan_of()), {"other.weight": np.zeros(1, np.float32)})


def test_a_counter_is_not_put_where_a_weight_belongs(plan_of: PlanOf) -> None:
    network = initial_network(plan_of())
    counter = next(n for n, t in network.state_dict().items() if t.dtype == torch.int64)
    with pytest.raises(WireError, match="this network has int64"):
        put_tensors_(network, {counter: np.array(1.0, np.float32)})


def test_the_plan_alone_decides_the_initial_weights(plan_of: PlanOf) -> None:
    def bits(plan: RunPlan) -> list[bytes]:
        return [t.numpy().tobytes() for t in initial_network(plan).state_dict().values()]

    torch.manual_seed(1)
    first = bits(plan_of())
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert bits(plan_of()) == first
    assert bits(plan_of(seed=1)) != first
    torch.manual_seed(1)
    bits(plan_of())
    assert torch.equal(torch.random.get_rng_state(), state)
