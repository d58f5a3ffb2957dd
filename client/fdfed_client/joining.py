"""Did joining help? A site's own answer, from its own images; none of it travels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.joining import MODELS, ComparedImage, Joining, Model, compare
from fdfed.evaluation.results_files import without_nan
from fdfed.evaluation.scoring import scores_of
from fdfed.files.atomic_file import write_text
from fdfed.networks import SegmentationNetwork
from fdfed.training.model_file import ModelHeader, SiteDice, save_model
from fdfed.training.site_state import SiteStore
from fdfed_client.alone import OnStep, TrainingAlone, fine_tuned
from fdfed_client.local_model import Images

KEPT_MODEL = "kept.safetensors"
IMAGES = "joining.csv"


@dataclass(frozen=True, slots=True, eq=False)
class JoiningAnswer:
    """The comparison, its test images one by one, and the model that the site should use."""

    joining: Joining
    images: tuple[ComparedImage, ...]
    kept: SegmentationNetwork
    header: ModelHeader

    def write(self, folder: Path, *, site: str, name: str = KEPT_MODEL) -> None:
        """The kept model and the table of images, in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder / name, self.kept.state_dict(), self.header)
        write_images(folder / IMAGES, {site: self.images})


def check_comparable(plan: RunPlan) -> None:
    """Refuses a plan in which nobody joins anybody.

    Raises:
        InvalidInput: for the strategies `local` and `pooled`.
    """
    if plan.strategy in ("local", "pooled"):
        raise InvalidInput(
            f"--with-local-baseline asks whether joining a federation helped, and with strategy = "
            f"{plan.strategy} nobody joins one; leave the option out, or choose another strategy"
        )


def answer_for(
    site: str,
    plan: RunPlan,
    images: Images,
    shared: SegmentationNetwork,
    alone: TrainingAlone,
    *,
    on_step: OnStep = lambda server_round, done: None,
) -> JoiningAnswer:
    """Trains what is left of `alone`, fine-tunes a copy of `shared`, and compares the three.

    Args:
        plan: the federation's, with the precision that the site trained in.
        shared: the federation's final model as this site has it.
        on_step: as in `TrainingAlone.train_round`.
    """
    while not alone.done:
        alone.train_round(on_step)
    tuned, tuning_steps = fine_tuned(shared, plan, images, site=site, on_step=on_step)
    networks: dict[Model, SegmentationNetwork] = {
        "shared": shared,
        "fine_tuned": tuned,
        "alone": alone.best(),
    }
    validation, test = (
        {
            model: scores_of(network, images.evaluation_batches(part), precision=plan.precision)
            for model, network in networks.items()
        }
        for part in ("validation", "test")
    )
    joining, rows = compare(
        validation,
        test,
        patients=images.patients_of("test"),
        patients_known=images.patients_known,
        steps=alone.steps,
        fine_tuning_steps=tuning_steps,
    )
    kept = networks[joining.kept]
    return JoiningAnswer(joining, rows, kept, _header(site, plan, kept, joining, rows))


def training_alone(
    site: str, plan: RunPlan, images: Images, *, folder: Path, run_id: str, device: torch.device
) -> TrainingAlone:
    """The site's local training of a run, kept in `folder`.

    Raises:
        InvalidInput: as `check_comparable`.
    """
    check_comparable(plan)
    store = SiteStore(folder)
    return TrainingAlone(plan, images, site=site, store=store, run_id=run_id, device=device)


def write_images(path: Path, rows: dict[str, Sequence[ComparedImage]]) -> None:
    """One row per test image with its Dice under each model, atomically; an image without an
    annotation has empty cells."""
    buffer = io.StringIO()
    columns = ("site", "name", "patient", *MODELS)
    table = csv.DictWriter(buffer, columns, lineterminator="\n")
    table.writeheader()
    for site, images in rows.items():
        table.writerows({"site": site} | without_nan(asdict(row)) for row in images)
    write_text(path, buffer.getvalue())


def _header(
    site: str,
    plan: RunPlan,
    network: SegmentationNetwork,
    joining: Joining,
    rows: Sequence[ComparedImage],
) -> ModelHeader:
    known = [value for row in rows if (value := getattr(row, joining.kept)) == value]
    scored = torch.tensor(known, dtype=torch.float64)
    spread = float(scored.std()) if len(known) > 1 else 0.0
    dice = {site: SiteDice(n=len(known), mean=float(scored.mean()), sd=spread)} if known else {}
    return ModelHeader.of(plan, network.tap_names, site=site, dice=dice)
