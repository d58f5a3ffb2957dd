"""Contrastive losses: by hand, against MONAI and the definition, and which cells are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import ContrastiveLoss
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.losses import (
    GlobalHead,
    LocalHead,
    PixelContrast,
    global_contrastive_loss,
    local_contrastive_loss,
    supervised_pixel_loss,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_global_contrastive_loss_matches_the_equation_worked_by_hand() -> None:
    # Both views of image 1 are e1, of image 2 e2. With τ = 1 each of the four rows has products
    # 1 with its partner and 0 with two others: -log(e / (e + 2)).
    views = 3 * torch.eye(2, dtype=torch.float64)
    loss = global_contrastive_loss(views, views, temperature=1.0)
    assert loss.item() == pytest.approx(math.log(math.e + 2) - 1)


@given(seed=st.integers(0, 2**31), batch=st.integers(2, 6), temperature=st.floats(0.1, 2))
@settings(deadline=None, max_examples=20)
def test_global_contrastive_loss_is_monais(seed: int, batch: int, temperature: float) -> None:
    rng = _generator(seed)
    first, second = (torch.randn(batch, 5, generator=rng) for _ in range(2))
    torch.testing.assert_close(
        global_contrastive_loss(first, second, temperature=temperature),
        ContrastiveLoss(temperature=temperature)(first, second),
        rtol=1e-4,
        atol=1e-4,
    )


def test_one_image_or_one_region_has_no_negatives_and_costs_nothing() -> None:
    single = torch.randn(1, 4, requires_grad=True)
    loss = global_contrastive_loss(single, 2 * single)
    assert loss.item() == 0
    loss.backward()
    assert local_contrastive_loss(torch.randn(3, 1, 4), torch.randn(3, 1, 4)).item() == 0


def test_local_contrastive_loss_is_the_global_one_of_each_images_regions() -> None:
    first, second = (torch.randn(3, 4, 6, dtype=torch.float64) for _ in range(2))
    alone = [global_contrastive_loss(a, b) for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(local_contrastive_loss(first, second), torch.stack(alone).mean())


def _supervised_by_definition(z: Tensor, label: Tensor, temperature: float) -> Tensor:
    z = z / z.norm(dim=-1, keepdim=True)
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        total = torch.stack([(z[i] @ z[a] / temperature).exp() for a in others]).sum()
        partners = [a for a in others if label[a] == label[i]]
        shares = [((z[i] @ z[p] / temperature).exp() / total).log() for p in partners]
        terms.append(-torch.stack(shares).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_supervised_pixel_loss_is_the_definition_over_all_cells(temperature: float) -> None:
    embeddings = torch.randn(2, 5, 3, 3, dtype=torch.float64, generator=_generator(1))
    mask = torch.zeros(2, 1, 3, 3)
    mask[0, 0, 0] = 1
    mask[1, 0, :, 2] = 1
    cells = embeddings.permute(0, 2, 3, 1).reshape(-1, 5)
    expected = _supervised_by_definition(cells, mask.flatten(), temperature)
    loss = supervised_pixel_loss(
        embeddings, mask, generator=_generator(), pixels=100, temperature=temperature
    )
    torch.testing.assert_close(loss, expected)


def test_supervised_pixel_loss_draws_at_most_so_many_cells_of_each_class() -> None:
    embeddings = torch.randn(2, 4, 16, 16, generator=_generator(2), requires_grad=True)
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, :4] = 1
    supervised_pixel_loss(embeddings, mask, generator=_generator(), pixels=7).backward()
    assert embeddings.grad is not None
    touched = embeddings.grad.abs().sum(1, keepdim=True) > 0
    assert int(touched[mask > 0].sum()) == 7
    assert int(touched[mask == 0].sum()) == 7


def test_equal_generators_draw_equal_cells_and_separated_classes_cost_less() -> None:
    mask = (torch.rand(1, 1, 8, 8, generator=_generator(3)) > 0.5).float()
    noise = torch.randn(1, 3, 8, 8, generator=_generator(4))
    losses = [
        supervised_pixel_loss(noise, mask, generator=_generator(5), pixels=8) for _ in range(2)
    ]
    assert torch.equal(*losses)
    separated = torch.cat((mask, 1 - mask, torch.zeros_like(mask)), dim=1)
    assert supervised_pixel_loss(separated, mask, generator=_generator(5), pixels=8) < losses[0]


@pytest.mark.parametrize("inside", [0, 1, 63, 64])
def test_a_class_without_two_cells_gives_a_zero_in_the_graph(inside: int) -> None:
    embeddings = torch.randn(1, 3, 8, 8, requires_grad=True)
    mask = (torch.arange(64) < inside).float().reshape(1, 1, 8, 8)
    loss = supervised_pixel_loss(embeddings, mask, generator=_generator())
    assert loss.item() == 0
    loss.backward()
    assert embeddings.grad is not None


def test_autocast_does_not_round_the_products() -> None:
    embeddings = torch.randn(1, 8, 8, 8, generator=_generator(6))
    mask = (torch.rand(1, 1, 8, 8, generator=_generator(7)) > 0.5).float()
    expected = supervised_pixel_loss(embeddings, mask, generator=_generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(
            supervised_pixel_loss(embeddings, mask, generator=_generator()), expected
        )


def test_pixel_contrast_projects_every_tap_and_trains_its_heads() -> None:
    contrast = PixelContrast({"Enc1": 4, "Bot": 6}, embedding=8)
    taps = {"Enc1": torch.randn(1, 4, 8, 8), "Bot": torch.randn(1, 6, 4, 4)}
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    contrast(taps, mask, _generator()).backward()
    assert all(p.grad is not None for p in contrast.heads["Enc1"].parameters())
    assert contrast.heads["Bot"].weight.grad.abs().sum() > 0


def test_heads_give_embeddings_of_images_and_of_regions() -> None:
    assert GlobalHead(4, 2)(torch.randn(3, 4, 2, 2)).shape == (3, 128)
    head = LocalHead(4)
    features = torch.randn(2, 4, 16, 16)
    places = head.places(features, _generator())
    assert places.shape == (13,)
    assert len(places.unique()) == 13
    assert head(features, places).shape == (2, 13, 128)


def test_a_region_sees_its_own_cells_only() -> None:
    head = LocalHead(1)
    features = torch.randn(1, 1, 7, 7, requires_grad=True)
    head(features, torch.tensor([3])).sum().backward()  # lower right of the 2 x 2 tiles
    assert features.grad is not None
    touched = features.grad[0, 0] != 0
    assert touched[3:6, 3:6].all()
    assert int(touched.sum()) == 9


def test_a_map_without_two_regions_is_refused() -> None:
    with pytest.raises(InvalidInput, match="later decoder"):
        LocalHead(1).places(torch.randn(1, 1, 5, 5), _generator())
