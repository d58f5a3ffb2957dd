"""The segmentation loss: Dice and binary cross-entropy on logits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from fdfed.errors import InvalidInput


def segmentation_loss(
    logits: Float[Tensor, "batch 1 height width"],
    mask: Shaped[Tensor, "batch 1 height width"],
    *,
    eps: float = 1e-5,
) -> Float[Tensor, ""]:
    """L_seg = L_dice + L_bce, with p = sigmoid(logits) and y the mask:

        L_dice = 1 - (2 Σ p y + ε) / (Σ p + Σ y + ε)
        L_bce  = -1/N Σ (y log p + (1 - y) log(1 - p))      (sums over all pixels of the batch)

    Source: Eq. 5-7 of the paper, supplementary A. Departures: Eq. 6 also adds ε to each summand,
    outside the logarithm, which shifts the loss by a constant; it is left out, and cross-entropy
    is computed from the logits, so that no ε is needed to keep it finite. The paper gives no ε;
    1e-5 is MONAI's, and MONAI's `DiceCELoss(sigmoid=True, batch=True)` has the same value.

    Args:
        logits: before the sigmoid; half precision is computed in fp32.
        mask: 1 = foreground, 0 = background.

    Raises:
        InvalidInput: if the shapes differ.
    """
    if logits.shape != mask.shape:
        raise InvalidInput(
            f"segmentation_loss got logits {tuple(logits.shape)} but a mask of "
            f"{tuple(mask.shape)}; the sums run pixel by pixel, so both must be (batch, 1, "
            "height, width). Resize the mask to the image (nearest neighbour)"
        )
    # fp16 sums overflow from 65504 pixels on.
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    y = mask.to(z.dtype)
    p = z.sigmoid()
    dice = (2 * (p * y).sum() + eps) / (p.sum() + y.sum() + eps)
    return 1 - dice + functional.binary_cross_entropy_with_logits(z, y)
