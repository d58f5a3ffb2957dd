"""Did joining help a hospital?"""

from __future__ import annotations

import math
from typing import Any

import pytest

from fdfed.errors import InvalidInput
from fdfed.evaluation.aggregates import ImageScore
from fdfed.evaluation.joining import Joining, Model, answer, compare


def scores(**dice: float) -> tuple[ImageScore, ...]:
    return tuple(ImageScore(n, d, d, 9, math.isnan(d)) for n, d in dice.items())


def joining_of(
    test: dict[Model, tuple[ImageScore, ...]],
    *,
    validation: tuple[float, float, float] = (0.6, 0.5, 0.4),
    patients: dict[str, str] | None = None,
) -> Joining:
    """The comparison, with validation Dice of the shared, the fine-tuned and the own model."""
    names = [score.name for score in test["alone"]]
    models: tuple[Model, ...] = ("shared", "fine_tuned", "alone")
    joining, _ = compare(
        {model: scores(v=dice) for model, dice in zip(models, validation, strict=True)},
        test,
        patients=patients or {name: name for name in names},
        patients_known=patients is not None,
        steps=40,
        fine_tuning_steps=4,
    )
    return joining


def test_the_interval_is_student_s_t_over_patients_worked_by_hand() -> None:
    # Patient p has two images, gains 0.1 and 0.3: 0.2. Patient q has one: 0.4. Mean 0.3, standard
    # deviation 0.2 / √2, standard error 0.1, and t of one degree of freedom is 12.7062.
    joining = joining_of(
        {
            "shared": scores(a=0.5, b=0.7, c=0.9),
            "fine_tuned": scores(a=0.0, b=0.0, c=0.0),
            "alone": scores(a=0.4, b=0.4, c=0.5),
        },
        patients={"a": "p", "b": "p", "c": "q"},
    )
    assert joining.gain == pytest.approx(0.3)
    assert joining.low == pytest.approx(0.3 - 1.27062, abs=1e-5)
    assert joining.high == pytest.approx(0.3 + 1.27062, abs=1e-5)
    assert (joining.images, joining.patients) == (3, 2)


@pytest.mark.parametrize(
    ("validation", "kept", "joined"),
    [
        ((0.6, 0.5, 0.4), "shared", "shared"),
        ((0.5, 0.6, 0.4), "fine_tuned", "fine_tuned"),
        ((0.5, 0.6, 0.7), "alone", "fine_tuned"),
        ((0.5, 0.5, 0.5), "shared", "shared"),
        ((math.nan, 0.1, math.nan), "fine_tuned", "fine_tuned"),
    ],
)
def test_what_is_kept_is_chosen_by_validation_and_never_by_test_images(
    validation: Any, kept: str, joined: str
) -> None:
    joining = joining_of(
        {"shared": scores(a=0.1), "fine_tuned": scores(a=0.2), "alone": scores(a=0.3)},
        validation=validation,
    )
    assert (joining.kept, joining.joined) == (kept, joined)
    assert joining.scores["fine_tuned"].test == 0.2


def test_an_image_without_annotation_counts_in_nothing() -> None:
    joining = joining_of(
        {
            "shared": scores(a=0.5, b=math.nan, c=0.6),
            "fine_tuned": scores(a=0.5, b=math.nan, c=0.6),
            "alone": scores(a=0.4, b=math.nan, c=0.5),
        }
    )
    assert (joining.images, joining.patients) == (2, 2)
    assert joining.gain == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        ((0.4, 0.41, 0.39), "Joining helped tnbc: on 3 test images, the federation's model scores"),
        ((0.9, 0.91, 0.89), "Joining did not help tnbc: on 3 test images"),
        ((0.9, 0.1, 0.52), "Whether joining helped tnbc is open: on 3 test images"),
    ],
)
def test_the_answer_is_one_sentence_that_says_how_sure_it_is(
    alone: tuple[float, float, float], said: str
) -> None:
    joining = joining_of(
        {
            "shared": scores(a=0.6, b=0.61, c=0.6),
            "fine_tuned": scores(a=0.6, b=0.61, c=0.6),
            "alone": scores(**dict(zip("abc", alone, strict=True))),
        }
    )
    sentence = answer("tnbc", joining)
    assert said in sentence
    assert "95 % interval" in sentence
    assert "over images" in sentence
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")


def test_one_patient_gives_no_interval_and_the_answer_claims_nothing() -> None:
    joining = joining_of(
        {"shared": scores(a=0.6), "fine_tuned": scores(a=0.6), "alone": scores(a=0.1)},
        patients={"a": "p"},
    )
    assert joining.low is None
    assert "cannot be told" in answer("tnbc", joining)
    assert "one patient gives no interval" in answer("tnbc", joining)


def test_no_scored_test_image_is_said_as_such() -> None:
    empty = scores(a=math.nan)
    joining = joining_of({"shared": empty, "fine_tuned": empty, "alone": empty})
    assert joining.gain is None
    assert "no test image could be scored" in answer("tnbc", joining)


def test_models_that_saw_different_images_are_not_compared() -> None:
    one = scores(a=0.5)
    with pytest.raises(InvalidInput, match="different test images"):
        joining_of({"shared": scores(b=0.5), "fine_tuned": one, "alone": one})
    with pytest.raises(InvalidInput, match="it needs those of shared, fine_tuned, alone"):
        compare({}, {}, patients={}, patients_known=False, steps=1, fine_tuning_steps=1)
