"""What a strategy may make of the mean, and what is refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from torch import nn

from fdfed.config import STRATEGY_NAMES
from fdfed.errors import InvalidInput
from fdfed.strategies import Arrays, Averaging, create_strategy

BEFORE: Arrays = {
    "w": np.array([1.0, 2.0], dtype=np.float32),
    "count": np.array(3, dtype=np.int64),
}
MEAN: Arrays = {
    "w": np.array([3.0, 6.0], dtype=np.float32),
    "count": np.array(4, dtype=np.int64),
}


@pytest.mark.parametrize("name", [n for n in STRATEGY_NAMES if n not in ("fedavgm", "fedadam")])
def test_every_strategy_without_an_optimiser_goes_on_from_the_mean_and_remembers_nothing(
    name: str,
) -> None:
    weights, memory = create_strategy(name).advance(BEFORE, MEAN, {})
    assert memory == {}
    for key, value in MEAN.items():
        assert weights[key].tobytes() == value.tobytes()


class Answering(Averaging):
    """Answers what it was made with."""

    def __init__(self, weights: Arrays, memory: Arrays | None = None) -> None:
        self.weights, self.memory = weights, memory or {}

    def _advance(self, before: Arrays, mean: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        return self.weights, self.memory


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.ones(3, dtype=np.float32)}, r"float32 \(3,\) of the tensor 'w'.*float32 \(2,\)"),
        ({"w": np.ones(2)}, "made float64"),
        ({"w": np.array([1, np.nan], dtype=np.float32)}, "something other than finite numbers"),
        ({"w": [1.0, 2.0]}, "made list of the tensor 'w'"),
        ({"other": np.ones(1)}, "of the tensor 'other', where the model has nothing"),
        ({"count": np.array(4.0)}, r"made float64 \(\) of the tensor 'count'"),
    ],
)
def test_an_answer_that_is_no_model_is_refused_by_what_is_wrong_with_it(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        Answering({**MEAN, **change}).advance(BEFORE, MEAN, {})


def test_a_tensor_that_is_left_out_is_refused() -> None:
    with pytest.raises(InvalidInput, match="made nothing of the tensor 'count'"):
        Answering({"w": MEAN["w"]}).advance(BEFORE, MEAN, {})


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [np.array(["a"]), np.array([np.inf]), 1.0])
def test_a_memory_that_cannot_be_saved_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="of the tensor 'v'"):
        Answering(MEAN, {"v": value}).advance(BEFORE, MEAN, {})


def test_a_tensor_that_the_network_lacks_cannot_be_kept() -> None:
    class Keeping(Averaging):
        def _kept(self, network: nn.Module) -> Collection[str]:
            return ("weight", "absent")

    with pytest.raises(InvalidInput, match="keeps absent at the sites"):
        Keeping().shared_names(nn.Linear(1, 1))
