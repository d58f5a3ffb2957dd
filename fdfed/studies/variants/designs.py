"""The studies of variants, by name: ablations, noise, networks, unseen hospitals."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fdfed.studies.baselines.configuration import BASE
from fdfed.studies.five_losses import FIVE_LOSSES, MATCHED, WITHOUT, Recipe
from fdfed.studies.variants.design import Design, Published, Variant

ABLATION_LAYERS: Final = Design(
    name="ablation-layers",
    title="L_fd at all taps, or at one",
    variants=(
        Variant(name=WITHOUT, recipe=MATCHED),
        Variant(name="all taps", recipe=Recipe("fd"), against=WITHOUT),
        *(
            Variant(
                name=f"{tap} alone",
                recipe=Recipe("fd"),
                changes={"alpha": {"taps": (tap,)}},
                against="all taps",
            )
            for tap in ("Enc1", "Dec4", "Bot")
        ),
    ),
    published=(Published(what="all layers over a single one (section 4.3)", value="+1.3 to +1.8"),),
)

ABLATION_WARM_START: Final = Design(
    name="ablation-warm-start",
    title="A first phase without the discrepancy loss, or the loss from the first round on",
    # α is fixed: that of `dual` depends on when its target is taken.
    variants=(
        Variant(name="fedavg", recipe=MATCHED),
        Variant(name="pooled", recipe=Recipe("pooled"), against="fedavg"),
        *(
            variant
            for method, without in (("fd", "fedavg"), ("fdfed", "fd from the beginning"))
            for variant in (
                Variant(
                    name=f"{method} from the beginning",
                    recipe=Recipe(method),
                    changes={"warm_start": False, "alpha": {"mode": "fixed"}},
                    against=without,
                ),
                Variant(
                    name=f"{method} with warm start",
                    recipe=Recipe(method),
                    changes={"warm_start": True, "alpha": {"mode": "fixed"}},
                    against=f"{method} from the beginning",
                ),
            )
        ),
    ),
    published=(
        Published(what="warm start over the beginning (supplement H)", value="+1.5 to +1.9"),
    ),
)

_OWN_NORMS: Final = {"strategy": "fedbn", "norm": "group"}
_OWN_BATCH_NORMS: Final = {"strategy": "fedbn", "norm": "batch"}

ABLATION_AVERAGING: Final = Design(
    name="ablation-averaging",
    title="What federated averaging loses to pooled training, and whether L_fd adds to what helps",
    variants=(
        Variant(name="fedavg", recipe=MATCHED),
        Variant(name="pooled", recipe=Recipe("pooled", BASE), against="fedavg"),
        Variant(
            name="fedavg, 5 steps a round",
            recipe=MATCHED,
            changes={"rounds": 80, "steps_per_round": 5, "evaluate_every": 8},
            against="fedavg",
        ),
        Variant(
            name="fedavg, BatchNorm", recipe=MATCHED, changes={"norm": "batch"}, against="fedavg"
        ),
        Variant(
            name="own BatchNorm (fedbn)",
            recipe=MATCHED,
            changes=_OWN_BATCH_NORMS,
            against="fedavg",
        ),
        Variant(
            name="own BatchNorm, L_fd",
            recipe=Recipe("fd"),
            changes=_OWN_BATCH_NORMS,
            against="own BatchNorm (fedbn)",
        ),
        Variant(name="own GroupNorm", recipe=MATCHED, changes=_OWN_NORMS, against="fedavg"),
        Variant(
            name="own GroupNorm, L_fd",
            recipe=Recipe("fd"),
            changes=_OWN_NORMS,
            against="own GroupNorm",
        ),
        Variant(
            name="own GroupNorm, L_fd+L_exch",
            recipe=Recipe("fdfed"),
            changes=_OWN_NORMS,
            against="own GroupNorm",
        ),
    ),
    development_only=True,
    note="Asked after the comparison's results were known, so on patients that are not "
    "confirmatory. *own*: the site keeps its normalisation layers, as FedBN does, and is tested "
    "with its own network.",
)

NOISE: Final = (0.0, 0.05, 0.10, 0.15, 0.20)
"""σ, of images in [0, 1]; supplement I has all but the first."""


def noisy(loss: str, sigma: float) -> str:
    """The name of the variant."""
    return f"{loss}, σ = {sigma:.2f}"


FIGURE_10: Final = Design(
    name="figure10",
    title="Training images with Gaussian noise",
    variants=tuple(
        Variant(
            name=noisy(loss, sigma),
            recipe=recipe,
            changes={"noise": sigma} if sigma else {},
            against=noisy(loss, 0.0) if sigma else None,
        )
        for sigma in NOISE
        for loss, recipe in FIVE_LOSSES.items()
    ),
    note="The paper's Fig. 10 has its values in the picture alone; none can stand beside ours.",
)

NETWORKS: Final = ("unet", "attention-unet", "nucleisegnet", "cmunet")


def _without_and_with(network: str, **changes: Any) -> tuple[Variant, Variant]:
    alone = {"strategy": "local", "network": network, **changes}
    return (
        Variant(name=f"{network}, no L_fd", recipe=Recipe("local", BASE), changes=alone),
        Variant(
            name=f"{network}, L_fd",
            recipe=Recipe("fd"),
            changes=alone | {"loss": "fd"},
            against=f"{network}, no L_fd",
        ),
    )


_TABLE_2: Final = {
    "attention-unet": (
        "UDIAT 67.21 → 68.96, TNBC 80.61 → 81.16, MoNuSeg 75.92 → 77.97, AD256 61.14 → 64.69"
    ),
    "cmunet": "UDIAT 81.85 → 84.22, US-TNBC 49.59 → 50.22",
    "nucleisegnet": "TNBC 81.69 → 82.65, MoNuSeg 80.95 → 81.69, AD256 51.15 → 56.57",
}

TABLE_2: Final = Design(
    name="table2",
    title="Each data set alone, without and with L_fd, by network",
    variants=tuple(v for network in NETWORKS for v in _without_and_with(network)),
    seeds=5,
    published=tuple(
        Published(what=f"{network}, all test images, Dice without → with", value=value)
        for network, value in _TABLE_2.items()
    ),
    note="The published IoU columns are left out: 22 of 58 (Dice, IoU) pairs of that table exclude "
    "each other.",
)

TABLE_3: Final = Design(
    name="table3",
    title="Transformers without pretrained weights, against a convolutional network with L_fd",
    variants=(
        Variant(
            name="swin-unet",
            recipe=Recipe("local"),
            changes={"network": "swin-unet", "size": 224, "crop": None},
        ),
        Variant(
            name="transunet",
            recipe=Recipe("local"),
            changes={"network": "transunet", "size": 256, "crop": None},
        ),
        Variant(
            name="nucleisegnet, L_fd",
            recipe=Recipe("fd"),
            changes={"strategy": "local", "network": "nucleisegnet", "size": 224, "crop": None},
            against="swin-unet",
        ),
    ),
    published=(
        Published(what="TransUNet, Dice / IoU", value="TNBC 76.50 / 72.04, MoNuSeg 77.46 / 63.85"),
        Published(what="SwinUNet, Dice / IoU", value="TNBC 60.08 / 50.14, MoNuSeg 76.38 / 62.54"),
        Published(
            what="NuSegNet + L_fd, Dice / IoU", value="TNBC 82.65 / 70.58, MoNuSeg 81.69 / 68.65"
        ),
    ),
)

SITES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "histology": ("tnbc", "monuseg-repeated", "monuseg-single"),
    "ultrasound": ("busuclm", "busbra-logiq5", "busbra-logiq7"),
}
"""Hospitals of the leave-one-site-out study (`fdfed.studies.variants.hospitals`)."""


def unseen(method: str, site: str) -> str:
    """The name of the variant."""
    return f"{method}, {site} unseen"


UNSEEN_SITE: Final = Design(
    name="unseen-site",
    title="A hospital that took no part in the training",
    variants=tuple(
        Variant(
            name=unseen(recipe.method, left_out),
            recipe=recipe,
            sites=tuple(site for site in sites if site != left_out),
            evaluate=(left_out,),
            groups=(group,),
            against=None if recipe is MATCHED else unseen(MATCHED.method, left_out),
        )
        for group, sites in SITES_OF.items()
        for left_out in sites
        for recipe in (MATCHED, Recipe("pooled"), Recipe("fd"), Recipe("fdfed"))
    ),
    development_only=True,
    note="MoNuSeg is two hospitals here, by whether a tissue source site sent one patient or more, "
    "and BUS-BRA two, by device. Confirmatory patients take no part at any stage.",
)

DESIGNS: Final[Mapping[str, Design]] = MappingProxyType(
    {
        design.name: design
        for design in (
            ABLATION_AVERAGING,
            ABLATION_LAYERS,
            ABLATION_WARM_START,
            FIGURE_10,
            TABLE_2,
            TABLE_3,
            UNSEEN_SITE,
        )
    }
)
