"""What the method does inside a trained network, tap by tap: gradients, validity, shift, drift."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import SiteData
from fdfed.losses import (
    exchange_loss,
    feature_discrepancy_loss,
    gradient_norm,
    segmentation_loss,
)
from fdfed.networks import SegmentationNetwork
from fdfed.prototypes import batch_prototypes, masked_prototypes
from fdfed.training.initialise import initial_auxiliary, initial_network
from fdfed.training.local_round import LocalRound, train_round_
from fdfed.training.sharing import local_names, put_tensors_
from fdfed.training.site_state import SiteStore
from fdfed_server.run_state import RunState, load_state

_BATCHES: Final = 4
"""Training batches of each site that the means are taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapDiagnostics:
    """One tap after the last round; distances are of mean prototypes, averaged over site pairs.

    F and B are the mean foreground and background prototypes over `_BATCHES` training batches.
    Sites' own models are the common one after one more local round (without the cross-site term).
    """

    alpha: float
    valid: float
    """Share of images with both prototypes."""
    seg_gradient: float
    """|∇_θ L_seg|, θ the network's weights."""
    fd_gradient: float
    """|∇_θ L_fd,l|; times α, over `seg_gradient`, it is the tap's share in the update."""
    exch_gradient: float | None
    """|∇_θ L_exch,l| of the pooled cross-site term; None where the method has none."""
    within: float
    """‖F_s - B_s‖ under the common model, mean over sites."""
    shift_foreground: float
    """‖F_s - F_t‖, both sites' images under the common model: the images differ, not the models."""
    shift_background: float
    inner: float
    """<F_s - F_t, B_s - B_t>: what Eq. 4 rewards beside the classes' distance."""
    apart_foreground: float
    """‖F_s - F_t‖, each site's images under its own model: what the exchange sees."""
    apart_background: float
    drift_foreground: float
    """‖F(x; θ_s) - F(x; θ_t)‖, the same images under both sites' models: drift of clients."""
    drift_background: float


class _Prototypes(NamedTuple):
    """Means over images, by tap."""

    foreground: dict[str, Float[Tensor, " channels"]]
    background: dict[str, Float[Tensor, " channels"]]
    valid: dict[str, float]


def diagnose(plan: RunPlan, sites: Mapping[str, SiteData], run: Path) -> dict[str, TapDiagnostics]:
    """The diagnostics of a finished run in the folder `run`, whose state is still there.

    Empty for strategies without one common model.
    """
    state = load_state(run / "state" / "run")
    common = initial_network(plan).float()
    if state is None or plan.strategy == "pooled" or local_names(common, plan.strategy):
        return {}
    put_tensors_(common, state.model.weights)
    own = {name: _after_local_round(plan, state, common, sites[name], run) for name in sites}
    gradients = _gradients(plan, common, list(sites.values()), state)
    under_common = {name: _prototypes(plan, common, site) for name, site in sites.items()}
    crossed = {
        (images, model): _prototypes(plan, own[model], sites[images])
        for images in sites
        for model in sites
    }
    return {
        tap: _of_tap(tap, float(state.model.alpha[i]), gradients[tap], under_common, crossed)
        for i, tap in enumerate(common.tap_names)
    }


def _after_local_round(
    plan: RunPlan, state: RunState, common: SegmentationNetwork, site: SiteData, run: Path
) -> SegmentationNetwork:
    network = copy.deepcopy(common)
    record = SiteStore(run / "state" / "sites" / site.name).load_before(
        state.run_id, state.completed_rounds + 1
    )
    request = LocalRound(
        plan=plan,
        run_id=state.run_id,
        server_round=state.completed_rounds + 1,
        attempt=1,
        alpha=state.model.alpha if plan.has_discrepancy else None,
    )
    auxiliary = initial_auxiliary(plan, network)
    if auxiliary is not None and record is not None:
        auxiliary.load_state_dict(record.part("auxiliary"))
    optimizer = record.part("optimizer") if record is not None else None
    train_round_(network, site, request, auxiliary=auxiliary, optimizer_state=optimizer)
    return network


def _batches(site: SiteData) -> list[tuple[Tensor, Tensor]]:
    return [site.training_batch(step) for step in range(_BATCHES)]


@torch.no_grad()
def _prototypes(plan: RunPlan, network: SegmentationNetwork, site: SiteData) -> _Prototypes:
    network.eval()
    method = plan.method
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {tap: [] for tap in network.tap_names}
    for image, mask in _batches(site):
        _, taps = network.forward_with_taps(image)
        for tap, features in taps.items():
            found[tap].append(
                masked_prototypes(
                    features, mask, pooling=method.pooling, mask_pooling=method.mask_pooling
                )
            )
    means = _Prototypes({}, {}, {})
    for tap, parts in found.items():
        foreground, background, valid = (torch.cat(column) for column in zip(*parts, strict=True))
        means.foreground[tap], means.background[tap], _ = batch_prototypes(
            foreground, background, valid, bound=method.bound
        )
        means.valid[tap] = float(valid.float().mean())
    return means


class _Gradients(NamedTuple):
    """Norms over all weights of the network."""

    seg: float
    fd: float
    exch: float | None


def _gradients(
    plan: RunPlan, network: SegmentationNetwork, sites: Sequence[SiteData], state: RunState
) -> dict[str, _Gradients]:
    """Gradient norms on one batch of each site, under batch statistics as in training."""
    network.train()
    before = copy.deepcopy(network.state_dict())
    weights = list(network.parameters())
    counts = np.array([len(site.parts["train"]) for site in sites], dtype=np.float64)
    shares = (counts / counts.sum()).tolist()
    seg: list[Tensor] = []
    fd: dict[str, list[Tensor]] = {tap: [] for tap in network.tap_names}
    means: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {tap: [] for tap in network.tap_names}
    method = plan.method
    for site, share in zip(sites, shares, strict=True):
        image, mask = site.training_batch(0)
        logits, taps = network.forward_with_taps(image)
        seg.append(share * segmentation_loss(logits, mask))
        for tap, features in taps.items():
            prototypes = masked_prototypes(
                features, mask, pooling=method.pooling, mask_pooling=method.mask_pooling
            )
            loss = feature_discrepancy_loss(*prototypes, bound=method.bound, eps=method.eps)
            fd[tap].append(share * loss)
            means[tap].append(batch_prototypes(*prototypes, bound=method.bound))
    norms = {}
    seg_norm = gradient_norm(torch.stack(seg).sum(), weights)
    for tap in network.tap_names:
        exch = None
        if plan.effective_loss == "fd+exch":
            F, B, valid = (torch.stack(column) for column in zip(*means[tap], strict=True))
            loss = exchange_loss(
                F, B, valid, form=method.form, bound=method.exchange_bound, eps=method.eps
            )
            exch = gradient_norm(loss, weights)
        norms[tap] = _Gradients(seg_norm, gradient_norm(torch.stack(fd[tap]).sum(), weights), exch)
    # The forward passes moved the running statistics.
    network.load_state_dict(before)
    return norms


def _of_tap(
    tap: str,
    alpha: float,
    gradients: _Gradients,
    common: Mapping[str, _Prototypes],
    crossed: Mapping[tuple[str, str], _Prototypes],
) -> TapDiagnostics:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    def distances(
        pairs: Sequence[tuple[_Prototypes, _Prototypes]],
    ) -> tuple[float, float, float]:
        """Mean ‖ΔF‖, ‖ΔB‖ and <ΔF, ΔB> over pairs."""
        moves = [
            (a.foreground[tap] - b.foreground[tap], a.background[tap] - b.background[tap])
            for a, b in pairs
        ]
        return (
            mean([float(dF.norm()) for dF, _ in moves]),
            mean([float(dB.norm()) for _, dB in moves]),
            mean([float(dF @ dB) for dF, dB in moves]),
        )

    pairs = list(itertools.combinations(common, 2))
    shift = distances([(common[s], common[t]) for s, t in pairs])
    apart = distances([(crossed[s, s], crossed[t, t]) for s, t in pairs])
    drift = distances(
        [(crossed[x, s], crossed[x, t]) for s, t in pairs for x in (s, t)],
    )
    return TapDiagnostics(
        alpha=alpha,
        valid=mean([site.valid[tap] for site in common.values()]),
        seg_gradient=gradients.seg,
        fd_gradient=gradients.fd,
        exch_gradient=gradients.exch,
        within=mean(
            [float((p.foreground[tap] - p.background[tap]).norm()) for p in common.values()]
        ),
        shift_foreground=shift[0],
        shift_background=shift[1],
        inner=shift[2],
        apart_foreground=apart[0],
        apart_background=apart[1],
        drift_foreground=drift[0],
        drift_background=drift[1],
    )
