"""Did joining help this hospital? Its own local model beside the federation's, on its own images.

Which model serves a hospital is chosen by validation images, and what that is worth is told by
test images, which took no part in the choice.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from fdfed.errors import InvalidInput
from fdfed.evaluation.aggregates import ImageScore
from fdfed.evaluation.significance import mean_interval

Model = Literal["shared", "fine_tuned", "alone"]
"""The federation's; that one trained on at the site; the one that the site trained by itself."""

MODELS: Final[tuple[Model, ...]] = get_args(Model)
JOINED: Final[tuple[Model, ...]] = ("shared", "fine_tuned")

WORDS: Final[Mapping[Model, str]] = {
    "shared": "the federation's model",
    "fine_tuned": "the federation's model fine-tuned here",
    "alone": "the model trained here alone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnScore:
    """Mean Dice of one model over a site's own images, as fractions; None where none is scored."""

    validation: float | None
    test: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """What joining the federation gave one site. Exists there, or in a simulation, only."""

    scores: Mapping[Model, OwnScore]
    kept: Model
    """The best by validation Dice: the model that the site should use. Of equals the first of
    `MODELS`."""
    joined: Model
    """The better by validation of the two that the federation gave."""
    gain: float | None
    """Dice of `joined` less Dice of `alone`: the mean over test patients of the mean over a
    patient's images. None without a scored test image."""
    low: float | None
    """Ends of the 95 % interval of `gain`; None with fewer than two patients."""
    high: float | None
    images: int
    """Test images behind `gain`."""
    patients: int
    patients_known: bool
    """Whether the site says whose the images are; else each counts as a patient of its own."""
    steps: int
    """Training steps of the model trained alone: as many as the site made for the federation."""
    fine_tuning_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedImage:
    """One test image under the three models; stays at the site. NaN: no annotation to score."""

    name: str
    patient: str
    shared: float
    fine_tuned: float
    alone: float


def compare(
    validation: Mapping[Model, Sequence[ImageScore]],
    test: Mapping[Model, Sequence[ImageScore]],
    *,
    patients: Mapping[str, str],
    patients_known: bool,
    steps: int,
    fine_tuning_steps: int,
) -> tuple[Joining, tuple[ComparedImage, ...]]:
    """The comparison, and the test images one by one.

    The interval is Student's t over the patients' mean differences, each patient counting alike:
    images of one patient are no independent evidence. It is about which patients are in the test
    part. It does not hold the chance of the training, of which there was one.

    Args:
        validation: scores of the site's validation images under each of the three models.
        test: likewise of its test images, in one order.
        patients: whose each test image is, by the image's name.

    Raises:
        InvalidInput: if a model is missing, or the models were scored on different images.
    """
    for part in (validation, test):
        if set(part) != set(MODELS):
            raise InvalidInput(
                f"compare got scores of {', '.join(sorted(part)) or 'no model'}; it needs those of "
                f"{', '.join(MODELS)}"
            )
    rows = _rows(test, patients)
    scores = {
        model: OwnScore(validation=_mean(validation[model]), test=_mean(test[model]))
        for model in MODELS
    }
    joined = _best(scores, JOINED)
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        difference = getattr(row, joined) - row.alone
        if not math.isnan(difference):
            by_patient.setdefault(row.patient, []).append(difference)
    differences = [statistics.fmean(values) for values in by_patient.values()]
    low, high = mean_interval(differences)
    return Joining(
        scores=scores,
        kept=_best(scores, MODELS),
        joined=joined,
        gain=statistics.fmean(differences) if differences else None,
        low=low,
        high=high,
        images=sum(map(len, by_patient.values())),
        patients=len(differences),
        patients_known=patients_known,
        steps=steps,
        fine_tuning_steps=fine_tuning_steps,
    ), rows


def answer(site: str, joining: Joining) -> str:
    """Whether joining helped `site`, in one sentence that says how sure that is."""
    if joining.gain is None:
        return f"Whether joining helped {site} cannot be told: no test image could be scored."
    images = _many(joining.images, "test image")
    if joining.patients_known:
        images += f" of {_many(joining.patients, 'patient')}"
    model = WORDS[joining.joined]
    if joining.low is None or joining.high is None:
        return (
            f"Whether joining helped {site} cannot be told: on {images}, {model} scores "
            f"{_signed(joining.gain)} Dice against {WORDS['alone']}, and one "
            f"{_unit(joining)} gives no interval."
        )
    span = f"95 % interval {_signed(joining.low)} to {_signed(joining.high)} over {_unit(joining)}s"
    if joining.low > 0:
        return (
            f"Joining helped {site}: on {images}, {model} scores {joining.gain:.3f} Dice above "
            f"{WORDS['alone']} ({span})."
        )
    if joining.high < 0:
        return (
            f"Joining did not help {site}: on {images}, {model} scores {-joining.gain:.3f} Dice "
            f"below {WORDS['alone']} ({span})."
        )
    return (
        f"Whether joining helped {site} is open: on {images}, {model} scores "
        f"{_signed(joining.gain)} Dice against {WORDS['alone']} ({span}, which holds zero)."
    )


def _rows(
    test: Mapping[Model, Sequence[ImageScore]], patients: Mapping[str, str]
) -> tuple[ComparedImage, ...]:
    names = [score.name for score in test["alone"]]
    if any([score.name for score in test[model]] != names for model in MODELS):
        raise InvalidInput(
            "compare got models that were scored on different test images; score all of them on "
            "the same images in the same order"
        )
    return tuple(
        ComparedImage(
            name=alone.name,
            patient=patients[alone.name],
            shared=shared.dice,
            fine_tuned=tuned.dice,
            alone=alone.dice,
        )
        for shared, tuned, alone in zip(*(test[model] for model in MODELS), strict=True)
    )


def _mean(scores: Sequence[ImageScore]) -> float | None:
    known = [score.dice for score in scores if not math.isnan(score.dice)]
    return statistics.fmean(known) if known else None


def _best(scores: Mapping[Model, OwnScore], models: Sequence[Model]) -> Model:
    def rank(model: Model) -> float:
        found = scores[model].validation
        return -math.inf if found is None else found

    # Of equals `max` takes the first.
    return max(models, key=rank)


def _unit(joining: Joining) -> str:
    return "patient" if joining.patients_known else "image"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _signed(value: float) -> str:
    """With its sign, a true minus."""
    return f"{value:+.3f}".replace("-", "−")
