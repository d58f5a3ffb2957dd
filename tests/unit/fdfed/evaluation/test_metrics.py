"""Dice and IoU per image."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.evaluation.metrics import foreground, image_scores


def logits_of(mask: Tensor) -> Tensor:
    """Logits of a network that is sure of `mask`."""
    return (mask - 0.5) * 10


def picture(*rows: str) -> Tensor:
    """A mask (1, 1, h, w) from rows of `#` and `.`."""
    return torch.tensor([[[[float(pixel == "#") for pixel in row] for row in rows]]])


def test_dice_and_iou_match_the_equations_worked_by_hand() -> None:
    annotated = picture("###.", "#...")  # |G| = 4
    predicted = picture(".##.", ".##.")  # |P| = 4, and 2 pixels are in both
    (score,) = image_scores(logits_of(predicted), annotated, ["a"])
    assert score.dice == pytest.approx(2 * 2 / (4 + 4))
    assert score.iou == pytest.approx(2 / (4 + 4 - 2))
    assert (score.name, score.foreground_pixels, score.empty) == ("a", 4, False)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 0.95))
def test_scores_agree_with_counting_sets_of_pixels(seed: int, share: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 1, 6, 5, generator=rng)
    mask = (torch.rand(3, 1, 6, 5, generator=rng) < share).float()
    scores = image_scores(logits, mask, ["a", "b", "c"])
    for index, score in enumerate(scores):
        predicted = {int(i) for i in (logits[index] >= 0).flatten().nonzero()}
        annotated = {int(i) for i in mask[index].flatten().nonzero()}
        if not annotated:
            assert score.empty
            assert math.isnan(score.dice)
            continue
        both, either = len(predicted & annotated), len(predicted | annotated)
        assert score.dice == pytest.approx(2 * both / (len(predicted) + len(annotated)))
        assert score.iou == pytest.approx(both / either)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_dice_is_iou_stretched_by_2_over_1_plus_iou(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 1, 7, 7, generator=rng)
    mask = (torch.rand(1, 1, 7, 7, generator=rng) < 0.5).float()
    mask[..., 0, 0] = 1
    (score,) = image_scores(logits, mask, ["a"])
    assert score.dice == pytest.approx(2 * score.iou / (1 + score.iou))


def test_an_image_scores_the_same_alone_and_in_a_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 8, 8, generator=rng)
    mask = (torch.rand(4, 1, 8, 8, generator=rng) < 0.4).float()
    batch = image_scores(logits, mask, "abcd")
    for index, name in enumerate("abcd"):
        one = slice(index, index + 1)
        assert image_scores(logits[one], mask[one], [name]) == (batch[index],)


@pytest.mark.parametrize("rows", [("....", "...."), ("#...", "....")])
def test_an_empty_annotation_is_excluded_whatever_was_predicted(rows: tuple[str, ...]) -> None:
    predicted = picture(*rows)
    (score,) = image_scores(logits_of(predicted), torch.zeros_like(predicted), ["normal"])
    assert math.isnan(score.dice)
    assert math.isnan(score.iou)
    assert score.empty
    assert score.foreground_pixels == 0


def test_an_empty_annotation_scores_one_or_zero_where_that_convention_is_asked_for() -> None:
    predicted = torch.cat([picture("....", "...."), picture("#...", "....")])
    nothing = torch.zeros_like(predicted)
    right, wrong = image_scores(logits_of(predicted), nothing, ["a", "b"], empty="one")
    assert (right.dice, right.iou) == (1, 1)
    assert (wrong.dice, wrong.iou) == (0, 0)
    assert right.empty
    assert wrong.empty


def test_an_empty_prediction_of_an_annotated_image_scores_zero() -> None:
    annotated = picture("##..", "....")
    (score,) = image_scores(logits_of(torch.zeros_like(annotated)), annotated, ["a"])
    assert (score.dice, score.iou, score.empty) == (0, 0, False)


def test_a_probability_of_exactly_one_half_is_foreground() -> None:
    logits = torch.tensor([[[[0.0, -1e-3]]]])
    assert foreground(logits).tolist() == [[[[True, False]]]]


def test_half_precision_logits_just_below_zero_stay_background() -> None:
    # The sigmoid of -1e-4 is 0.499975, which bfloat16 would round to 0.5.
    logits = torch.tensor([[[[-1e-4]]]], dtype=torch.bfloat16)
    assert not foreground(logits).any()


def test_a_batch_without_images_has_no_scores() -> None:
    nothing = torch.zeros(0, 1, 4, 4)
    assert image_scores(nothing, nothing, []) == ()


def test_boolean_and_integer_masks_score_like_float_ones() -> None:
    mask = picture("##..", "....")
    scores = {image_scores(logits_of(mask), m, ["a"]) for m in (mask, mask.bool(), mask.byte())}
    assert len(scores) == 1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("logits", "mask", "names", "message"),
    [
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2), ["a"], r"Resize the logits"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), ["a"], r"\(batch, 1, height, width\)"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), ["a"], r"1 names for 2 images"),
        (torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 255.0), ["a"], r"divide a 0/255 mask"),
        (torch.full((1, 1, 2, 2), math.nan), torch.zeros(1, 1, 2, 2), ["a"], r"4 NaN of 4"),
    ],
)
def test_unusable_input_is_refused_by_what_is_wrong_with_it(
    logits: Tensor, mask: Tensor, names: list[str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        image_scores(logits, mask, names)


def test_commands_that_score_nothing_do_not_wait_for_monai() -> None:
    modules = "fdfed_client.plan_approval, fdfed_client.enrolment, fdfed_server.status"
    code = f"import sys, {modules}; sys.exit('monai' in sys.modules)"
    places = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": places}, check=False
    )
    assert done.returncode == 0
