"""The model card: what a released model is, from a run's results; aggregates only."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from fdfed.config import RunPlan, parse
from fdfed.errors import InvalidInput
from fdfed.evaluation.privacy_text import privacy_statement, setting, what_left, what_stayed
from fdfed.evaluation.results import RunResults, SiteResult
from fdfed.evaluation.results_files import without_nan
from fdfed.training.model_file import ModelHeader

FORMAT: Final = 1
PHANTOMS: Final = "TRAINED ON BUILT-IN PHANTOMS. Its masks mean nothing on medical images."
LIMITS: Final = (
    "For research. It is not a medical device, and no regulator has assessed it.",
    "The scores are of these sites' own test images. What it does at another hospital, with other "
    "scanners, stains or patients, nobody has measured: test it there first.",
    "Two-dimensional images, one kind of foreground; an image without any may get one.",
    "Averages hide the images on which it fails; scores of single images stay at the sites.",
)


def model_card(results: RunResults, header: ModelHeader, *, model_sha256: str) -> dict[str, Any]:
    """The card as JSON holds it.

    Raises:
        InvalidInput: if header and results are not of one model.
    """
    if header.round != results.model_round or header.phantoms != results.phantoms:
        raise InvalidInput(
            f"the model file is of round {header.round}, the results are of round "
            f"{results.model_round}: they are not of one run. Release a run's own results folder"
        )
    plan = parse(RunPlan, dict(results.config), source="the plan in results.json")
    card = {
        "format": FORMAT,
        "phantoms": results.phantoms,
        "model": {"sha256": model_sha256, **header.model_dump(mode="json", exclude={"dice"})},
        "run": {
            "plan_digest": plan.digest,
            "rounds": len(results.rounds),
            "model_round": results.model_round,
            "strategy": plan.strategy,
            "loss": plan.effective_loss,
            "aggregation": plan.aggregation,
        },
        "sites": {name: asdict(site) for name, site in results.sites.items()},
        "privacy": asdict(results.privacy),
        "statement": privacy_statement(results),
        "left": what_left(results, plan),
        "stayed": what_stayed(plan),
        "setting": setting(results),
        "versions": dict(results.versions),
        "limits": list(LIMITS),
    }
    whole: dict[str, Any] = without_nan(card)
    return whole


def card_text(card: dict[str, Any], results: RunResults) -> str:
    """The card as Markdown."""
    model, run = card["model"], card["run"]
    lines = ["# Model card", ""]
    if card["phantoms"]:
        lines += [f"> **{PHANTOMS}**", ""]
    lines += [
        f"A {model['network']} that segments the foreground of images with "
        f"{model['in_channels']} channel(s); {_input(model)}; threshold {model['threshold']:g}.",
        "",
        f"- Model file: SHA-256 `{model['sha256']}`",
        f"- Run plan: `{run['plan_digest']}`",
        f"- Weights of round {run['model_round']} of {run['rounds']}; strategy "
        f"{run['strategy']}, loss {run['loss']}, aggregation {run['aggregation']}",
        "",
        "## Sites and test scores",
        "",
        "| site | training images | test images | Dice (sd) | IoU (sd) |",
        "|---|---|---|---|---|",
        *(_row(name, site) for name, site in results.sites.items()),
        "",
        "## Privacy",
        "",
        f"{card['statement']} {card['setting']}",
        "",
        "What left the sites:",
        "",
        *(f"- {sentence}" for sentence in card["left"]),
        "",
        f"What stayed: {card['stayed']}",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card["limits"]),
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def _input(model: dict[str, Any]) -> str:
    if model["crop"]:
        return f"images at their own size, trained on squares of {model['crop']} px"
    return f"images resized to {model['size']} px"


def _row(name: str, site: SiteResult) -> str:
    scores = (_score(site.dice, site.dice_sd), _score(site.iou, site.iou_sd))
    return f"| {name} | {site.n_train} | {site.n_test} | {scores[0]} | {scores[1]} |"


def _score(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "withheld"
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ({sd:.3f})"
