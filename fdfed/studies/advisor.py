"""The study of the advisor: does the shift foretell what a candidate does to the base's Dice?

Every site is trained alone, and together with each of the others, by federated averaging of the
segmentation loss, which has no part in the shift. How the Dice at one of two changes by the other
is what is to be foretold. Phantoms, whose shifts are known numbers, and images are kept apart.

The images are those of `SITES` without the confirmatory patients, BUS-BRA by device; what is
scored is a validation fold. No test image is read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from fdfed.advisor import Observation, SiteSummary, summarise
from fdfed.advisor.shift import mean_shift, shifts_of
from fdfed.config import RunPlan, parse
from fdfed.data import KNOWN_SITES, SiteData, check_site_folder, open_planned, write_phantoms
from fdfed.data.cases import Case
from fdfed.data.patients import PATIENTS_FILE
from fdfed.studies.advisor_predictors import classifier_auc, histogram_distance, share_of
from fdfed.studies.held_out import draw_held_out
from fdfed.studies.page import write_csv
from fdfed.studies.trials import Trial, TrialResult, folder_of
from fdfed.training.model_file import load_model

STUDY: Final = "advisor"
SITES: Final = ("tnbc", "monuseg", "busuclm", "busbra")
BY_DEVICE: Final = "busbra"
SEEDS: Final = 2
PHANTOM_IMAGES: Final = 36

_COMMON: Final = {
    "network": "unet",
    "width": 8,
    "norm": "group",
    "in_channels": 3,
    "size": 64,
    "strategy": "fedavg",
    "loss": "seg",
    "rounds": 10,
    "steps_per_round": 15,
    "evaluate_every": 1,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "split": {"fold": 0, "folds": 3},
    "min_count": 1,
}


def agenda(sites: Sequence[str], *, phantoms: bool) -> list[Trial]:
    """All trials of a kind, a seed after the other: each site alone, and each pair, in which each
    is the base and the other is added."""
    ordered = sorted(sites)
    groups = [(site,) for site in ordered] + list(itertools.combinations(ordered, 2))
    return [trial(group, seed=seed, phantoms=phantoms) for seed in range(SEEDS) for group in groups]


def trial(sites: Sequence[str], *, seed: int, phantoms: bool) -> Trial:
    """A site alone, or two together."""
    values = _COMMON | {"sites": sites, "seed": seed, "phantoms": phantoms}
    plan = parse(RunPlan, values, source="the advisor study")
    method = "alone" if len(sites) == 1 else "together"
    return Trial("phantoms" if phantoms else "images", method, "+".join(sites), plan)


def write_sites(data: Path, folder: Path) -> tuple[str, ...]:
    """Folders of links to the images of `SITES` in `data`, without the confirmatory patients, and
    the names of the sites: a device of BUS-BRA is one of its own."""
    held_out = draw_held_out(data, SITES)
    names = []
    for site in SITES:
        by_name: dict[str, list[Case]] = {}
        for case in check_site_folder(data / site).cases:
            if case.patient not in held_out[site]:
                device = _slug(case.subsite or "unknown") if site == BY_DEVICE else ""
                by_name.setdefault(f"{site}-{device}" if device else site, []).append(case)
        for name, cases in by_name.items():
            _link(folder / name, cases)
        names += sorted(by_name)
    return tuple(names)


def write_phantom_sites(folder: Path) -> tuple[str, ...]:
    """Phantoms of all known sites."""
    for site in KNOWN_SITES:
        write_phantoms(folder, site, images=PHANTOM_IMAGES, size=64)
    return KNOWN_SITES


def observations(
    results: Mapping[str, TrialResult], *, data: Path, out: Path, phantoms: bool
) -> list[Observation]:
    """What each finished candidate did, beside what the predictors know of it.

    The shift is that under the model of the base alone, of the same seed: what the base has when
    it asks.
    """
    found = []
    for seed in range(SEEDS):
        of_seed = {
            result.config: result
            for result in results.values()
            if (result.group == "phantoms") == phantoms and result.seed == seed
        }
        alone = [name for name, result in of_seed.items() if result.method == "alone"]
        opened = {
            name: open_planned(trial((name,), seed=seed, phantoms=phantoms).plan, name, data)
            for name in alone
        }
        for base in sorted(alone):
            run = folder_of(out, trial((base,), seed=seed, phantoms=phantoms)) / "run"
            summaries = _summaries(run / "model.safetensors", list(opened.values()))
            before = of_seed[base].site_scores.get(base)
            for novel in sorted(set(alone) - {base}):
                together = of_seed.get("+".join(sorted((base, novel))))
                after = None if together is None else together.site_scores.get(base)
                if before is None or after is None:
                    continue
                pair = (opened[base], opened[novel])
                found.append(
                    Observation(
                        base=base,
                        novel=novel,
                        phantoms=phantoms,
                        change=after - before,
                        shift=mean_shift(shifts_of(summaries[base], summaries[novel])),
                        share=share_of(*pair),
                        histogram=histogram_distance(*pair),
                        classifier=classifier_auc(*pair),
                    )
                )
    return found


def _summaries(model: Path, sites: Sequence[SiteData]) -> dict[str, SiteSummary]:
    network, _ = load_model(model, torch.device("cpu"))

    return {
        site.name: summarise(
            network,
            site.evaluation_batches("train"),
            site=site.name,
            patients=site.patients_of("train"),
            phantoms=site.phantoms,
        )
        for site in sites
    }


def _link(folder: Path, cases: Sequence[Case]) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for case in cases:
        image, mask = (
            folder / part / f"{case.name}{source.suffix}"
            for part, source in (("images", case.image), ("masks", case.mask))
        )
        for link, source in ((image, case.image), (mask, case.mask)):
            if not link.exists():
                link.symlink_to(source.resolve())
        rows.append({"image": image.name, "mask": mask.name, "patient": case.patient})
    write_csv(folder / PATIENTS_FILE, ("image", "mask", "patient"), rows)


def _slug(text: str) -> str:
    """The first three words, as a site may be called."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower())[:3])
