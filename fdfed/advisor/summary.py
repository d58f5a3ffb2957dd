"""What a site tells the advisor: means and scatter of its prototypes at each tap, no image's own.

A patient's prototypes are the means over that patient's images, and a site's are means over
patients: images of one patient are no independent evidence of what the site is like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fdfed.config import Frozen, SiteName, read_json
from fdfed.errors import InvalidInput
from fdfed.evaluation.scoring import Batches
from fdfed.evaluation.whole_image import padded_to_fit
from fdfed.files.atomic_file import write_text
from fdfed.networks import SegmentationNetwork
from fdfed.prototypes import masked_prototypes

FORMAT: Final = 1
MIN_PATIENTS: Final = 3
"""Fewest patients behind a tap's summary; with fewer it would come close to a patient's own, and
the scatter between patients could not be told."""

Numbers = tuple[Annotated[float, Field(ge=-1e9, le=1e9)], ...]


class TapSummary(Frozen):
    """One tap of one site."""

    patients: int = Field(ge=MIN_PATIENTS, le=1_000_000)
    """Patients with an image that has foreground and background cells here."""
    valid: float = Field(ge=0, le=1)
    """Share of the site's images that have both."""
    foreground: Numbers
    """F, mean over patients, by channel."""
    background: Numbers
    """B, likewise."""
    scatter: float = Field(ge=0)
    """Σ over channels of the variance between patients of F, and of B, together (divisor n - 1)."""

    @model_validator(mode="after")
    def _check(self) -> TapSummary:
        if len(self.foreground) != len(self.background) or not self.foreground:
            raise ValueError(
                f"{len(self.foreground)} channels of foreground and {len(self.background)} of "
                "background; both are vectors of the tap's channels"
            )
        return self


class SiteSummary(Frozen):
    """One site under one network."""

    format: Literal[1] = FORMAT
    site: SiteName
    model: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the network's weights: summaries under different networks cannot be compared."""
    phantoms: bool
    images: int = Field(ge=1, le=10_000_000)
    taps: dict[str, TapSummary]
    """By tap; without those at which too few patients had foreground and background."""


def summarise(
    network: SegmentationNetwork,
    batches: Batches,
    *,
    site: str,
    patients: Mapping[str, str],
    phantoms: bool,
) -> SiteSummary:
    """The site's summary under `network`.

    Args:
        batches: images in [0, 1], masks of {0, 1} and names, whole and not augmented.
        patients: whose each image is, by its name.

    Raises:
        InvalidInput: if no tap has `MIN_PATIENTS` patients with foreground and background.
    """
    found: dict[str, dict[str, list[Tensor]]] = {tap: {} for tap in network.tap_names}
    valid = dict.fromkeys(network.tap_names, 0)
    images = 0
    for mask, taps, names in _features(network, batches):
        images += len(names)
        for tap, features in taps.items():
            foreground, background, both = masked_prototypes(features, mask)
            pairs = torch.stack((foreground, background), 1).double().cpu()
            for name, pair, known in zip(names, pairs, both.tolist(), strict=True):
                if known:
                    valid[tap] += 1
                    found[tap].setdefault(patients[name], []).append(pair)
    summaries = {
        tap: _tap_summary(by_patient, valid[tap] / images)
        for tap, by_patient in found.items()
        if len(by_patient) >= MIN_PATIENTS
    }
    if not summaries:
        raise InvalidInput(
            f"{site} has no tap with {MIN_PATIENTS} patients that have foreground and background "
            f"there ({images} images); the advisor needs more patients, or larger images"
        )
    return SiteSummary(
        site=site, model=weights_digest(network), phantoms=phantoms, images=images, taps=summaries
    )


def weights_digest(network: SegmentationNetwork) -> str:
    """SHA-256 over names and values of all tensors, in fp32 as a model file has them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        value = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_summary(path: Path, summary: SiteSummary) -> None:
    """The summary as JSON, atomically."""
    write_text(path, summary.model_dump_json(indent=1) + "\n")


def load_summary(path: Path) -> SiteSummary:
    """The summary in a file, which may come from another hospital.

    Raises:
        InvalidInput: if the file is missing or is no summary.
    """
    return read_json(SiteSummary, path, wanted="a file that `fdfed advise --summaries` wrote")


def _features(
    network: SegmentationNetwork, batches: Batches
) -> Iterator[tuple[Tensor, dict[str, Tensor], tuple[str, ...]]]:
    """Mask, taps and names, batch by batch, as the network sees them."""
    network.eval()
    weight = next(network.parameters())
    for image, mask, names in batches:
        whole = padded_to_fit(network, image.to(weight.device, weight.dtype))
        covered = padded_to_fit(network, mask.to(weight.device, weight.dtype))
        if whole is None or covered is None:
            raise InvalidInput(
                f"{names[0]} is {image.shape[-2]} × {image.shape[-1]} pixels, more than the "
                "network is given at once, so that it has no feature map as a whole; give a model "
                "that was trained with size in place of crop"
            )
        with torch.no_grad():
            taps = network.forward_with_taps(whole)[1]
        yield covered, taps, names


def _tap_summary(by_patient: Mapping[str, list[Tensor]], valid: float) -> TapSummary:
    # (patients, 2, channels): F and B of each patient.
    rows = torch.stack([torch.stack(pairs).mean(0) for pairs in by_patient.values()])
    foreground, background = rows.mean(0)
    return TapSummary(
        patients=len(rows),
        valid=valid,
        foreground=tuple(foreground.tolist()),
        background=tuple(background.tolist()),
        scatter=float(rows.var(0, correction=1).sum()),
    )
