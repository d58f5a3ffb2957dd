"""One training step's loss: segmentation, within-site discrepancy, and the remote cross-site term.

    L = L_seg + Σ_l α_l L_fd,l + Σ_l α_l (N / n_s) ⟨p_l, stopgrad(g_l)⟩

or L_seg plus an auxiliary loss that the method is compared with (`fdfed.losses.AuxiliaryLoss`).

p_l are the batch-mean prototypes of tap l and g_l the cotangents ∂L_exch,l/∂p_l that the
coordinator returned for them, or, with `exchange.max_staleness` above 0, for those of a few steps
before. The last sum is a surrogate: its *gradient* is the gradient of the
cross-site term with respect to this site's weights, so the hub is a loss function that happens to
live elsewhere. N / n_s undoes the aggregation weight n_s / N, so that the aggregated update is the
pooled one (exact for one step from common weights; `docs/METHOD.md`, section on exactness).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from fdfed.config import MethodPlan, RunPlan
from fdfed.exchange import (
    CotangentFrame,
    Exchange,
    PrototypeFrame,
    StepKey,
    TapLayout,
    is_usable,
)
from fdfed.losses import AuxiliaryLoss, Moment, feature_discrepancy_loss, segmentation_loss
from fdfed.networks import SegmentationNetwork
from fdfed.prototypes import batch_prototypes
from fdfed.tap_prototypes import TapReader, pack_prototypes
from fdfed.training.egress_floor import EgressFloor
from fdfed.training.precision import autocast

_Scalar = TypeVar("_Scalar", bound=np.generic)

_COTANGENT_SLACK: Final = 1.01
"""Room for fp32 rounding in the bound on a cotangent's norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLosses:
    """The scalar to differentiate and the values to report. Vectors have one entry a tap."""

    objective: Float[Tensor, ""]
    seg: Float[Tensor, ""]
    fd: Float[Tensor, " taps"] | None = None
    """NaN at a tap without a valid image."""
    exch: NDArray[np.float64] | None = None
    """The global L_exch of the step that the reply answers; None without a reply."""
    valid: Bool[Tensor, " taps"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTerm:
    """Where the cross-site term comes from in one step."""

    exchange: Exchange
    key: StepKey
    scale: float
    """N / n_s."""
    patients: Sequence[str]
    """Whose each image of the batch is; it decides what may be sent, and is not sent itself."""


@dataclass(frozen=True, slots=True)
class AuxiliaryTerm:
    """The auxiliary loss of one step."""

    loss: AuxiliaryLoss
    when: Moment


def layout_of(network: SegmentationNetwork) -> TapLayout:
    """The order in which the prototypes of all taps are packed into one vector."""
    return TapLayout(network.tap_names, tuple(network.tap_channels[n] for n in network.tap_names))


def step_losses(
    network: SegmentationNetwork,
    image: Float[Tensor, "batch channels height width"],
    mask: Float[Tensor, "batch 1 height width"],
    *,
    plan: RunPlan,
    alpha: NDArray[np.float64] | None,
    remote: RemoteTerm | None,
    auxiliary: AuxiliaryTerm | None = None,
) -> StepLosses:
    """The losses of one batch.

    Args:
        alpha: α by tap; None in phase 1, when no prototype is formed and the step is that of
            L_seg alone, operation by operation.
        remote: the cross-site term; None without one.
        auxiliary: the loss that is added to L_seg instead; None without one. Its value is in the
            objective alone.
    """
    if alpha is None:
        with autocast(plan.precision, image.device):
            logits, taps = network.forward_with_taps(image)
            extra = None if auxiliary is None else auxiliary.loss(taps, mask, auxiliary.when)
        seg = segmentation_loss(logits, mask)
        objective = seg if extra is None else seg + extra
        return StepLosses(objective=objective, seg=seg.detach())

    layout, method = layout_of(network), plan.method
    # A tap with α = 0 is measured, never differentiated: 0 · ∞ would be NaN.
    measured = [name for name, weight in zip(layout.names, alpha, strict=True) if weight <= 0]
    reader = TapReader(
        layout, mask, pooling=method.pooling, mask_pooling=method.mask_pooling, measured=measured
    )
    with autocast(plan.precision, image.device):
        logits = network.forward_into(image, reader)
    seg = segmentation_loss(logits, mask)
    foreground, background, valid = reader.prototypes()
    values = feature_discrepancy_loss(
        foreground, background, valid, bound=method.bound, eps=method.eps
    )
    weights = torch.from_numpy(alpha).to(values)
    objective = seg + (weights * values).where(weights > 0, 0).sum()
    valid_taps = valid.any(0)
    fd, exch = values.detach().where(valid_taps, torch.nan), None
    if remote is not None:
        floor = EgressFloor.of(mask, plan.exchange, patients=remote.patients)
        means = batch_prototypes(foreground, background, valid, bound=method.bound)
        valid_taps = valid_taps & floor.admits(valid)
        prototypes = pack_prototypes(layout, means[0], means[1])
        reply = _swap(prototypes, valid_taps, remote, plan, layout)
        if reply is not None:
            exch = reply.pair_terms
            # A late reply has cotangents for taps that this step's batch does not have.
            alpha_here = np.where(valid_taps.cpu().numpy(), alpha, 0.0)
            scales = _by_entry(alpha_here * remote.scale, layout)
            cotangents = torch.from_numpy(scales * reply.vector).to(prototypes)
            objective = objective + (prototypes * cotangents).sum()
    return StepLosses(objective=objective, seg=seg.detach(), fd=fd, exch=exch, valid=valid_taps)


def _swap(
    prototypes: Float[Tensor, " entries"],
    valid: Bool[Tensor, " taps"],
    remote: RemoteTerm,
    plan: RunPlan,
    layout: TapLayout,
) -> CotangentFrame | None:
    # What is not valid is not sent: not even blinded.
    sent = torch.from_numpy(_by_entry(valid.cpu().numpy(), layout))
    values = prototypes.detach().cpu().where(sent, 0).numpy()
    frame = PrototypeFrame(
        key=remote.key,
        vector=values.astype(np.float64 if plan.precision == "fp64" else np.float32),
        valid=valid.cpu().numpy(),
    )
    reply = remote.exchange.swap(frame)
    if reply is None or not is_usable(reply.key, frame.key, plan.exchange.max_staleness):
        return None
    if not _plausible(reply, layout, plan.method):
        return None
    return reply


def _plausible(reply: CotangentFrame, layout: TapLayout, method: MethodPlan) -> bool:
    """Whether each tap's cotangent keeps the bound that its equation implies.

    |∂/∂(F_s, B_s)| of -log(D + eps) is at most 2√D / (D + eps) <= 1 / √eps for each pair, and the
    mean over pairs is no larger. Only Eq. 4 has this bound; the other forms are checked for
    finiteness alone, as every frame is.
    """
    if method.form != "paper":
        return True
    vector = reply.vector.astype(np.float64)
    squares = [
        float(vector[fore] @ vector[fore] + vector[back] @ vector[back])
        for _, fore, back in layout.spans()
    ]
    return max(squares) <= _COTANGENT_SLACK / method.eps


def _by_entry(per_tap: NDArray[_Scalar], layout: TapLayout) -> NDArray[_Scalar]:
    """One value a tap, repeated over the tap's entries of the packed vector."""
    return np.tile(np.repeat(per_tap, layout.channels), 2)
