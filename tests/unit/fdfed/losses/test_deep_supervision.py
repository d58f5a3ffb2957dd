"""Deep supervision: by hand, against MONAI, and the decay of its weight."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DeepSupervisionLoss
from torch import nn

from fdfed.errors import InvalidInput
from fdfed.losses import DeepSupervision, deep_supervision_loss, supervision_weight


def test_deep_supervision_loss_matches_the_equation_worked_by_hand() -> None:
    # Logits 0 cost log 2 at every pixel; log 3 on a foreground of all pixels costs log(4/3).
    mask = torch.ones(1, 1, 4, 4)
    logits = {
        "Dec1": torch.zeros(1, 1, 2, 2),
        "Dec2": torch.full((1, 1, 4, 4), math.log(3.0)),
    }
    expected = 0.3 * (math.log(2) + math.log(4 / 3))
    assert deep_supervision_loss(logits, mask, weight=0.3).item() == pytest.approx(expected)


def test_maps_of_full_size_are_scored_as_monai_scores_them() -> None:
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    maps = {f"Dec{k}": torch.randn(2, 1, 8, 8) for k in (1, 2, 3)}
    oracle = DeepSupervisionLoss(nn.BCEWithLogitsLoss(), weight_mode="same")
    torch.testing.assert_close(
        deep_supervision_loss(maps, mask, weight=1.0), oracle(list(maps.values()), mask)
    )


def test_small_maps_are_interpolated_to_the_image() -> None:
    small = torch.randn(1, 1, 4, 4)
    mask = (torch.rand(1, 1, 8, 8) > 0.5).float()
    full = nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        deep_supervision_loss({"Dec1": small}, mask, weight=1.0),
        deep_supervision_loss({"Dec1": full}, mask, weight=1.0),
    )


def test_the_weight_falls_linearly_to_zero_and_stays_there() -> None:
    weights = [supervision_weight(step, 4, initial=0.4) for step in range(6)]
    assert weights == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])


def test_only_decoders_get_a_head_of_one_logit() -> None:
    heads = DeepSupervision({"Enc1": 4, "Bot": 8, "Dec1": 4, "Dec2": 2})
    logits = heads({"Dec1": torch.randn(1, 4, 4, 4), "Dec2": torch.randn(1, 2, 8, 8)})
    assert {name: tuple(z.shape) for name, z in logits.items()} == {
        "Dec1": (1, 1, 4, 4),
        "Dec2": (1, 1, 8, 8),
    }


def test_impossible_values_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one decoder"):
        deep_supervision_loss({}, torch.ones(1, 1, 4, 4), weight=1.0)
    with pytest.raises(InvalidInput, match="at least 1"):
        supervision_weight(0, 0)
