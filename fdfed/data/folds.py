"""Splits for studies: patients set aside for good, and cross-validation folds of the others.

Both depend on the names of sites and patients alone. A run's seed has no part in them, so runs
that differ in it are scored on the same images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from fdfed.data.cases import Case, Part
from fdfed.data.splits import split_cases
from fdfed.errors import DataError, InvalidInput

HELD_OUT_SHARE: Final = 0.2
"""Share of a site's patients that `held_out_patients` sets aside."""

_VALIDATION_FOLDS: Final = 8
"""Beside a held-out fifth, one of eight folds validates: 70, 10 and 20 percent in all."""


def held_out_patients(patients: Iterable[str], *, site: str, draw: str) -> tuple[str, ...]:
    """A fifth of the patients, by name: those whose SHA-256 of (draw, site, patient) is smallest.

    The nearest whole number to a fifth, at least one, and none of fewer than two patients.

    Args:
        draw: name of the draw; another name sets other patients aside.
    """
    known = set(patients)
    if len(known) < 2:
        return ()
    count = max(1, round(HELD_OUT_SHARE * len(known)))
    ranked = sorted(known, key=lambda patient: _hash("held out", draw, site, patient))
    return tuple(sorted(ranked[:count]))


def without_draw(cases: Iterable[Case], *, site: str, draw: str | None) -> tuple[Case, ...]:
    """The cases of all patients but those that the draw sets aside; all of them without a draw."""
    known = tuple(cases)
    if draw is None:
        return known
    aside = set(held_out_patients((case.patient for case in known), site=site, draw=draw))
    return tuple(case for case in known if case.patient not in aside)


def fold_of_patients(cases: Iterable[Case], *, site: str, folds: int) -> dict[str, int]:
    """The fold of each patient, counted from 0; folds hold nearly equal numbers of images.

    Patients are taken by falling number of images (equal ones by hash), each into the fold with
    the fewest images so far.

    Raises:
        InvalidInput: if there are fewer patients than folds, since one fold would be empty.
    """
    images: dict[str, int] = {}
    for case in cases:
        images[case.patient] = images.get(case.patient, 0) + 1
    if len(images) < folds:
        raise InvalidInput(
            f"{site} has {len(images)} patient(s) to spread over {folds} folds; lower split.folds"
        )
    order = sorted(images, key=lambda patient: (-images[patient], _hash("fold", site, patient)))
    sizes = [0] * folds
    chosen: dict[str, int] = {}
    for patient in order:
        fold = sizes.index(min(sizes))
        chosen[patient] = fold
        sizes[fold] += images[patient]
    return chosen


def study_split(
    cases: Iterable[Case],
    *,
    site: str,
    seed: int,
    held_out: str | None,
    fold: int | None,
    folds: int,
) -> dict[Part, tuple[Case, ...]]:
    """The cases of each part, by name, as `fdfed.config.SplitPlan` describes them.

    With a fold, the patients set aside are in no part. Without one, they are the test part, and
    one of eight folds of the others validates; the seed says which.

    Raises:
        DataError: if too few patients are left to train and validate.
    """
    known = sorted(cases, key=lambda case: case.name)
    aside: set[str] = set()
    if held_out is not None:
        aside = set(held_out_patients((case.patient for case in known), site=site, draw=held_out))
    rest = [case for case in known if case.patient not in aside]
    if fold is None and held_out is None:
        return split_cases(known, site=site, seed=seed)
    if fold is None:
        folds = min(_VALIDATION_FOLDS, len({case.patient for case in rest}))
        if folds < 2:
            raise DataError(
                f"{site} has too few patients to set some aside for testing: {folds} would be left "
                "to train and validate. Leave split.held_out out, or provide more patients"
            )
        fold, test = seed % folds, tuple(case for case in known if case.patient in aside)
    else:
        test = ()
    of = fold_of_patients(rest, site=site, folds=folds)
    return {
        "train": tuple(case for case in rest if of[case.patient] != fold),
        "validation": tuple(case for case in rest if of[case.patient] == fold),
        "test": test,
    }


def _hash(*key: str) -> bytes:
    return hashlib.sha256(json.dumps(key).encode()).digest()
