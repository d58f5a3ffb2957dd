import torch

from fdfed.config import ExchangePlan
from fdfed.training.egress_floor import EgressFloor


def floor_of(*foreground: int, side: int = 8, **plan: int) -> EgressFloor:
    """One image of `side`² pixels for each number of foreground pixels."""
    mask = torch.zeros(len(foreground), 1, side, side)
    for image, pixels in zip(mask, foreground, strict=True):
        image.view(-1)[:pixels] = 1
    return EgressFloor.of(mask, ExchangePlan(**plan))


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
    floor = floor_of(30, 30, min_pixels=1, min_images=1)
    assert not floor.admits(torch.tensor([False, False]))
