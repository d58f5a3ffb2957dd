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
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from fdfed.advisor import Observation, SiteSummary, summarise
from fdfed.advisor.shift import mean_shift, shifts_of
from fdfed.config import RunPlan, parse
from fdfed.data import KNOWN_SITES, SiteData, check_site_folder, open_planned, write_phantoms
from fdfed.data.cases import Case
from fdfed.data.patients import PATIENTS_FILE
from fdfed.evaluation.results import is_known
from fdfed.evaluation.results_files import load_results
from fdfed.simulation import simulate_sites
from fdfed.studies.advisor.predictors import classifier_auc, histogram_distance, share_of
from fdfed.studies.held_out import draw_held_out
from fdfed.studies.page import write_csv
from fdfed.studies.schedule import sole_owner
from fdfed.training.model_file import load_model

STUDY: Final = "advisor"
SITES: Final = ("tnbc", "monuseg", "busuclm", "busbra")
BY_DEVICE: Final = "busbra"
SEEDS: Final = 2
PHANTOM_IMAGES: Final = 36
SCORED_ROUNDS: Final = 4
"""The last rounds, over which a run is scored."""
LEARNED: Final = 0.1
"""Dice of a base alone from which it counts: below it, a change says whether the training had begun
to work, and nothing of the candidate."""
_RESULTS: Final = "results.json"

_COMMON: Final = {
    "network": "unet",
    "width": 8,
    "norm": "group",
    "in_channels": 3,
    "size": 64,
    "strategy": "fedavg",
    "loss": "seg",
    "rounds": 20,
    "steps_per_round": 15,
    "evaluate_every": 1,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "learning_rate_schedule": "constant",
    "split": {"fold": 0, "folds": 3},
    "min_count": 1,
}


def groups(sites: Sequence[str]) -> list[tuple[str, ...]]:
    """What is trained: each site alone, and each pair, in which each is the base and the other is
    added."""
    ordered = sorted(sites)
    return [*((site,) for site in ordered), *itertools.combinations(ordered, 2)]


def plan_of(sites: Sequence[str], *, seed: int, phantoms: bool) -> RunPlan:
    """A site alone, or two together."""
    values = _COMMON | {"sites": sites, "seed": seed, "phantoms": phantoms}
    return parse(RunPlan, values, source="the advisor study")


def train(
    folder: Path,
    sites: Sequence[str],
    *,
    out: Path,
    seed: int,
    phantoms: bool,
    deadline: float,
    told: Callable[[str, float], None],
) -> bool:
    """Trains what is missing of `groups(sites)` with one seed; True if nothing is any more.

    A run that was cut goes on after its last complete round. Its weights are kept, its states not.

    Args:
        folder: holds a folder of images for each site.
        deadline: of the monotonic clock; no run is begun after it.
        told: given each finished run and its seconds.
    """
    opened: dict[str, SiteData] = {}
    with sole_owner(out):
        for group in groups(sites):
            run = run_folder(out, group, seed)
            if (run / _RESULTS).exists():
                continue
            if time.monotonic() >= deadline:
                return False
            began = time.monotonic()
            plan = plan_of(group, seed=seed, phantoms=phantoms)
            for name in group:
                if name not in opened:
                    opened[name] = open_planned(plan, name, folder)
            simulate_sites(plan, {name: opened[name] for name in group}, out=run, report=False)
            shutil.rmtree(run / "state")
            told(run.name, time.monotonic() - began)
    return True


def run_folder(out: Path, group: Sequence[str], seed: int) -> Path:
    """Where a run lies."""
    return out / "runs" / f"{seed}-{'+'.join(group)}"


def runs_done(out: Path) -> int:
    """Finished runs below `out`."""
    return len(list((out / "runs").glob(f"*/{_RESULTS}")))


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
    folder: Path, sites: Sequence[str], *, out: Path, phantoms: bool
) -> list[Observation]:
    """What each candidate did to each base in the finished runs, beside what the predictors know.

    The shift is that under the model of the base alone, of the same seed: what the base has when
    it asks.
    """
    found = []
    for seed in range(SEEDS):
        done = {
            group: scores
            for group in groups(sites)
            if (scores := _scores(run_folder(out, group, seed)))
        }
        alone = [group[0] for group in done if len(group) == 1]
        opened = {
            name: open_planned(plan_of((name,), seed=seed, phantoms=phantoms), name, folder)
            for name in alone
        }
        for base in alone:
            with_base = [group for group in done if len(group) == 2 and base in group]
            if not with_base or done[base,][base] < LEARNED:
                continue
            model = run_folder(out, (base,), seed) / "model.safetensors"
            summaries = _summaries(model, list(opened.values()))
            for group in with_base:
                novel = group[1] if group[0] == base else group[0]
                if novel not in opened:
                    continue
                pair = (opened[base], opened[novel])
                found.append(
                    Observation(
                        base=base,
                        novel=novel,
                        phantoms=phantoms,
                        change=done[group][base] - done[base,][base],
                        shift=mean_shift(shifts_of(summaries[base], summaries[novel])),
                        share=share_of(*pair),
                        histogram=histogram_distance(*pair),
                        classifier=classifier_auc(*pair),
                    )
                )
    return found


def _scores(run: Path) -> dict[str, float]:
    """Validation Dice of each site, mean over the last rounds; none of a run that is not done."""
    if not (run / _RESULTS).exists():
        return {}
    rounds = load_results(run / _RESULTS).rounds[-SCORED_ROUNDS:]
    curves: dict[str, list[float]] = {}
    for record in rounds:
        for site, entry in record.sites.items():
            if is_known(entry.val_dice):
                curves.setdefault(site, []).append(entry.val_dice)
    return {site: sum(values) / len(values) for site, values in curves.items()}


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
