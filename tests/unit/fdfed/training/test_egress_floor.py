from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdfed.config import ExchangePlan
from fdfed.training.egress_floor import EgressFloor


def floor_of(
    *foreground: int, side: int = 8, patients: Sequence[str] = (), **plan: int
) -> EgressFloor:
    """One image of `side`² pixels for each number of foreground pixels; of a patient each, unless
    it is said whose they are."""
    mask = torch.zeros(len(foreground), 1, side, side)
    for image, pixels in zip(mask, foreground, strict=True):
        image.view(-1)[:pixels] = 1
    owners = patients or [f"patient {number}" for number in range(len(foreground))]
    return EgressFloor.of(mask, ExchangePlan(**plan), patients=owners)


def test_pixels_are_counted_over_all_images_of_the_mean() -> None:
    valid = torch.tensor([True, True])
    assert not floor_of(10, 5, min_pixels=16).admits(valid)
    assert floor_of(10, 6, min_pixels=16).admits(valid)


def test_an_image_outside_the_mean_lends_no_pixels() -> None:
    valid = torch.tensor([True, True, False])
    assert not floor_of(5, 5, 60, min_pixels=16).admits(valid)


def test_the_background_has_the_same_floor() -> None:
    # 64 pixels an image: 8 + 7 of background in the first case.
    valid = torch.tensor([True, True])
    assert not floor_of(56, 57, min_pixels=16).admits(valid)
    assert floor_of(56, 56, min_pixels=16).admits(valid)


def test_the_prototype_of_a_single_image_is_not_sent_by_default() -> None:
    floor = floor_of(30, 30)
    assert not floor.admits(torch.tensor([True, False]))
    assert floor.admits(torch.tensor([True, True]))


def test_no_valid_image_is_below_every_floor() -> None:
    floor = floor_of(30, 30, min_pixels=1, min_images=1, min_patients=1)
    assert not floor.admits(torch.tensor([False, False]))


def test_several_images_of_one_patient_are_that_patients_and_are_not_sent() -> None:
    floor = floor_of(30, 30, 30, patients=("anna", "anna", "bert"))
    assert not floor.admits(torch.tensor([True, True, False]))
    assert floor.admits(torch.tensor([False, True, True]))


def test_an_image_that_comes_twice_in_a_batch_counts_as_one_patient() -> None:
    # A batch that spans two epochs may hold an image twice; its name stands for its patient.
    assert not floor_of(30, 30, patients=("case-7", "case-7")).admits(torch.tensor([True, True]))


@pytest.mark.parametrize(("asked", "admitted"), [(1, True), (2, True), (3, False)])
def test_the_plan_says_how_many_patients_are_enough(asked: int, admitted: bool) -> None:
    floor = floor_of(30, 30, 30, patients=("a", "b", "a"), min_patients=asked)
    assert bool(floor.admits(torch.tensor([True, True, True]))) is admitted


@given(
    batch=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=9),
    asked=st.integers(1, 5),
)
def test_the_floor_counts_the_distinct_patients_of_the_valid_images(
    batch: list[tuple[str, bool]], asked: int
) -> None:
    owners, valid = [owner for owner, _ in batch], torch.tensor([flag for _, flag in batch])
    floor = floor_of(
        *[30] * len(batch), patients=owners, min_patients=asked, min_images=1, min_pixels=1
    )
    expected = len({owner for owner, flag in batch if flag}) >= asked
    assert bool(floor.admits(valid)) is expected
