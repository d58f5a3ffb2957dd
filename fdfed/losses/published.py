"""The discrepancy losses as the paper's algorithm and its released scripts have them.

Three definitions exist that differ from one another: Eq. 1 and 4, Algorithm 1, and the scripts
(github.com/AyushRoy2001/Exchangeable-feature-disentanglement, commit 6af7c29). The first is what
`feature_discrepancy_loss` and `exchange_loss` compute; the other two are here, to be compared
with, in our own words and without corrections.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fdfed.losses.bounds import negative_log
from fdfed.prototypes import masked_prototypes, tap_regions


def channel_summed_prototypes(
    features: Float[Tensor, "batch channels tap_height tap_width"],
    mask: Shaped[Tensor, "batch 1 height width"],
) -> tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"], Bool[Tensor, " batch"]]:
    """F_g and B_g with the sums over pixels *and* channels that Definition 1 writes for F_g.

    A scalar for each image and class; the proof of Lemma 1 sums B_g so too. The third entry tells
    whether both classes are present, as in `masked_prototypes`.
    """
    foreground, background, valid = masked_prototypes(features, mask, pooling="sum")
    return foreground.sum(-1, keepdim=True), background.sum(-1, keepdim=True), valid


def algorithm_1_discrepancy(
    foreground: Float[Tensor, "batch channels"],
    background: Float[Tensor, "batch channels"],
    *,
    eps: float = 0.0,
) -> Float[Tensor, ""]:
    """The mean over images i of -log |F_i - B_i|: Algorithm 1, line 4, supplementary D.

    The norm is not squared, so value and gradient are half of Eq. 1's. `eps` is added to the
    squared norm; the paper has none, and then coinciding prototypes give infinity.
    """
    squared = (foreground - background).square().sum(-1)
    return negative_log(squared, cap=None, eps=eps).mean() / 2


def algorithm_1_exchange(
    foreground: Float[Tensor, "batch channels"],
    background: Float[Tensor, "batch channels"],
    *,
    shift: int = 1,
    eps: float = 0.0,
) -> Float[Tensor, ""]:
    """The mean over images i of -log |F_i - B_{i+k}|, i + k modulo n: Algorithm 1, line 5.

    Pairs of images of one batch, whichever site or data set they come from. Zero, connected to the
    graph, where every image would meet itself (k a multiple of n, as it must be for one image).

    Args:
        shift: k; the algorithm calls it arbitrary.
    """
    if shift % len(foreground) == 0:
        return 0 * (foreground.sum() + background.sum())
    return algorithm_1_discrepancy(foreground, background.roll(-shift, dims=0), eps=eps)


def released_discrepancy(
    features: Float[Tensor, "batch channels tap_height tap_width"],
    mask: Shaped[Tensor, "batch 1 height width"],
    *,
    foreground_order: Int[Tensor, " batch"] | None = None,
    background_order: Int[Tensor, " batch"] | None = None,
    eps: float = 0.0,
) -> Float[Tensor, ""]:
    """What the released scripts compute where Eq. 1 is meant:

        mean_c  -log √( Σ_n (F_nc - B_nc)² )      F = mean_ij(y F),  B = mean_ij(y (1 - F))

    The scripts hand mask and features to their helper in swapped order, so that B is
    mean(y) - F and holds nothing of the background; the norm runs over the images n of the batch
    and is not squared; and the mean runs over channels. Hence the value falls with the batch size,
    by log(2) / 2 for each doubling. Without `eps`, as released, a zero norm gives infinity.

    As released the weights α of these terms are variables outside the model's trainable ones,
    start at zero and stay there, so that the loss had no effect on training.

    Args:
        foreground_order, background_order: how the scripts' README shuffles F and B, each on its
            own, along the batch for the exchange term (`released_exchange`); None leaves them.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    y = tap_regions(mask.to(dtype), features.shape[-2:], "max")[:, :1]
    maps = features.to(dtype).flatten(2)
    foreground, background = (maps * y).mean(-1), ((1 - maps) * y).mean(-1)
    if foreground_order is not None:
        foreground = foreground[foreground_order]
    if background_order is not None:
        background = background[background_order]
    squared = (foreground - background).square().sum(0)
    return negative_log(squared, cap=None, eps=eps).mean() / 2


def released_exchange(
    features: Float[Tensor, "batch channels tap_height tap_width"],
    mask: Shaped[Tensor, "batch 1 height width"],
    *,
    generator: torch.Generator,
    eps: float = 0.0,
) -> Float[Tensor, ""]:
    """`released_discrepancy` with F and B shuffled independently along the batch.

    It knows no base and novel data set, and on average one image of the batch meets itself. Zero,
    connected to the graph, for a batch of one, where every image would.

    Args:
        generator: draws the two orders, on the CPU.
    """
    n = len(features)
    if n < 2:
        return 0 * features.sum()
    orders = (torch.randperm(n, generator=generator).to(features.device) for _ in range(2))
    return released_discrepancy(
        features,
        mask,
        foreground_order=next(orders),
        background_order=next(orders),
        eps=eps,
    )
