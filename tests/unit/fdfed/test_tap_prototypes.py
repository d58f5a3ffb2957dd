"""All taps at once are each tap by itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.exchange import TapLayout
from fdfed.losses import feature_discrepancy_loss
from fdfed.networks import create_network
from fdfed.prototypes import MaskPooling, Pooling, batch_prototypes, masked_prototypes
from fdfed.tap_prototypes import TapReader, pack_prototypes
from fdfed.training.step import layout_of

widths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def layout_with(channels: list[int]) -> TapLayout:
    return TapLayout(tuple(f"tap{i}" for i in range(len(channels))), tuple(channels))


def maps_of(layout: TapLayout, *, images: int, seed: int) -> dict[str, torch.Tensor]:
    """Maps of sides 4, 2, 4, 2, …, every second one with its channels last in memory."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for place, (name, width) in enumerate(zip(layout.names, layout.channels, strict=True)):
        side = 4 - 2 * (place % 2)
        features = torch.randn(images, width, side, side, generator=rng, dtype=torch.float64)
        if place % 2:
            features = features.to(memory_format=torch.channels_last)
        found[name] = features.requires_grad_()
    return found


@settings(deadline=None, max_examples=40)
@given(
    channels=widths,
    seed=st.integers(0, 99),
    pooling=st.sampled_from(["map", "sum"]),
    mask_pooling=st.sampled_from(["max", "dual_max"]),
    bound=st.sampled_from(["none", "normalise", "cap"]),
)
def test_losses_means_and_gradients_of_all_taps_are_those_of_each(
    channels: list[int], seed: int, pooling: Pooling, mask_pooling: MaskPooling, bound: str
) -> None:
    layout = layout_with(channels)
    rng = torch.Generator().manual_seed(seed)
    mask = (torch.rand(3, 1, 8, 8, generator=rng) > 0.7).double()
    mask[0] = 0  # an image that is not valid
    together, alone = (maps_of(layout, images=3, seed=seed) for _ in range(2))
    weights = torch.rand(len(channels), generator=rng, dtype=torch.float64)
    pull = torch.randn(layout.size, generator=rng, dtype=torch.float64)

    reader = TapReader(layout, mask, pooling=pooling, mask_pooling=mask_pooling)
    for name, features in together.items():
        reader[name] = features
    F, B, valid = reader.prototypes()
    values = feature_discrepancy_loss(F, B, valid, bound=bound)  # type: ignore[arg-type]
    means_f, means_b, any_valid = batch_prototypes(F, B, valid, bound=bound)  # type: ignore[arg-type]
    vector = pack_prototypes(layout, means_f, means_b)
    ((weights * values).sum() + vector @ pull).backward()

    objective = torch.zeros((), dtype=torch.float64)
    for place, (name, fore, back) in enumerate(layout.spans()):
        own = masked_prototypes(alone[name], mask, pooling=pooling, mask_pooling=mask_pooling)
        value = feature_discrepancy_loss(*own, bound=bound)  # type: ignore[arg-type]
        mean_f, mean_b, flag = batch_prototypes(*own, bound=bound)  # type: ignore[arg-type]
        torch.testing.assert_close(values[place], value)
        assert any_valid[place] == flag
        assert valid[:, place].tolist() == own[2].tolist()
        torch.testing.assert_close(vector[fore], mean_f)
        torch.testing.assert_close(vector[back], mean_b)
        objective = objective + weights[place] * value + mean_f @ pull[fore] + mean_b @ pull[back]
    objective.backward()
    for name, features in together.items():
        torch.testing.assert_close(features.grad, alone[name].grad)


def test_two_taps_of_two_widths_are_those_worked_by_hand() -> None:
    # Foreground in the left column. a: F = (1, 3), B = (0, 1). b: F = 5, B = 2.
    layout = TapLayout(("a", "b"), (2, 1))
    reader = TapReader(layout, torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))
    reader["a"] = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]], [[2.0, 1.0], [4.0, 1.0]]]])
    reader["b"] = torch.tensor([[[[4.0, 2.0], [6.0, 2.0]]]])
    F, B, valid = reader.prototypes()
    assert F.tolist() == [[[1, 3], [5, 0]]]
    assert B.tolist() == [[[0, 1], [2, 0]]]
    assert valid.tolist() == [[True, True]]
    # |F - B|² = 1 + 4 and 9.
    losses = feature_discrepancy_loss(F, B, valid)
    assert losses.tolist() == pytest.approx([-math.log(5), -math.log(9)], abs=1e-6)
    assert pack_prototypes(layout, F[0], B[0]).tolist() == [1, 3, 5, 0, 1, 2]


def test_a_tap_that_is_measured_gets_no_gradient_and_spoils_no_other() -> None:
    layout = layout_with([2, 2])
    maps = maps_of(layout, images=1, seed=0)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    reader = TapReader(layout, mask, measured=["tap0"])
    reader["tap0"] = maps["tap0"] * torch.inf
    reader["tap1"] = maps["tap1"]
    F, B, valid = reader.prototypes()
    values = feature_discrepancy_loss(F, B, valid)
    values.where(torch.tensor([False, True]), 0).sum().backward()
    assert maps["tap0"].grad is None
    assert maps["tap1"].grad is not None
    assert maps["tap1"].grad.isfinite().all()


def test_taps_of_a_network_are_read_as_they_come() -> None:
    """In the backward pass a tap's own gradient then comes after that of the layers behind it."""
    network = create_network("unet", in_channels=1, width=4, norm="group").double()
    image = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    mask = (torch.rand(2, 1, 32, 32) > 0.5).double()
    reader = TapReader(layout_of(network), mask)
    logits = network.forward_into(image, reader)
    same, taps = network.forward_with_taps(image)
    assert torch.equal(logits, same)
    F, B, valid = reader.prototypes()
    for place, features in enumerate(taps.values()):
        width = features.shape[1]
        own = masked_prototypes(features, mask)
        torch.testing.assert_close(F[:, place, :width], own[0])
        torch.testing.assert_close(B[:, place, :width], own[1])
        assert torch.equal(valid[:, place], own[2])
        assert not F[:, place, width:].any()


def test_what_a_network_did_not_announce_and_what_it_left_out_are_refused() -> None:
    layout = TapLayout(("a", "b"), (2, 1))
    reader = TapReader(layout, torch.zeros(1, 1, 4, 4))
    for name, shape in (("c", (1, 2, 4, 4)), ("a", (1, 3, 4, 4)), ("a", (2, 2, 4, 4))):
        with pytest.raises(InvalidInput, match=f"the tap {name} is"):
            reader[name] = torch.zeros(shape)
    reader["a"] = torch.zeros(1, 2, 4, 4)
    with pytest.raises(InvalidInput, match="the taps b are missing"):
        reader.prototypes()


@settings(deadline=None)
@given(channels=widths)
def test_splitting_gives_back_what_was_packed(channels: list[int]) -> None:
    layout = layout_with(channels)
    padded = torch.arange(2.0 * len(channels) * max(channels)).reshape(2, len(channels), -1)
    split = layout.split(pack_prototypes(layout, padded[0], padded[1]).numpy()[None])
    for part, by_tap in enumerate(split):
        for place, (name, width) in enumerate(zip(layout.names, channels, strict=True)):
            assert np.array_equal(by_tap[name][0], padded[part, place, :width].numpy())


@pytest.mark.bad_input
def test_packing_anything_but_the_layouts_taps_is_refused() -> None:
    layout, good = TapLayout(("a",), (2,)), torch.zeros(1, 2)
    for bad in (torch.zeros(0, 2), torch.zeros(1, 3), torch.zeros(2, 2)):
        with pytest.raises(InvalidInput, match="foreground prototypes to pack"):
            pack_prototypes(layout, bad, good)
        with pytest.raises(InvalidInput, match="background prototypes to pack"):
            pack_prototypes(layout, good, bad)
