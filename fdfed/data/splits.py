"""The split of a site's cases into training, validation and test, by patient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from fdfed.data.cases import Case, Part
from fdfed.data.seeds import generator

SHARES: Final[tuple[float, float, float]] = (0.70, 0.10, 0.20)
"""Shares of training, validation and test (the paper's 70-20-10 of train, test, validation)."""

_ORDERS: Final = 64
"""Shuffled orders that are tried; patients with many images make some orders cut badly."""


def split_cases(cases: Iterable[Case], *, site: str, seed: int) -> dict[Part, tuple[Case, ...]]:
    """The cases of each part, by name. A pure function of the cases' names and patients, `site`
    and `seed`: the order in which files are listed has no influence.

    Patients are shuffled and the order is cut in two places; of 64 seeded orders the one whose
    image counts come closest to 70, 10 and 20 percent (least squares) is taken. With three or
    more patients no part is empty; two patients are training and test, one is training.
    """
    by_patient: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        by_patient.setdefault(case.patient, []).append(case)
    patients = sorted(by_patient)
    sizes = np.array([len(by_patient[patient]) for patient in patients], dtype=np.int64)
    rng = generator("split", seed, site)
    best: tuple[float, np.ndarray, int, int] | None = None
    for _ in range(_ORDERS if len(patients) > 1 else 1):
        order = rng.permutation(len(patients))
        error, first, second = _cuts(sizes[order])
        if best is None or error < best[0]:
            best = error, order, first, second
    if best is None or not patients:
        return {"train": (), "validation": (), "test": ()}
    _, order, first, second = best

    def gather(chosen: np.ndarray) -> tuple[Case, ...]:
        found = [case for index in chosen for case in by_patient[patients[index]]]
        return tuple(sorted(found, key=lambda case: case.name))

    return {
        "train": gather(order[:first]),
        "validation": gather(order[first:second]),
        "test": gather(order[second:]),
    }


def _cuts(sizes: np.ndarray) -> tuple[float, int, int]:
    """(squared error, end of training, end of validation) of the best cuts of this order."""
    n = len(sizes)
    if n < 3:
        return 0.0, min(n, 1), min(n, 1)
    images = np.concatenate([[0], np.cumsum(sizes)])
    total = images[-1]
    # The nearest cuts, moved where a part would be left without a patient.
    first = int(np.clip(np.abs(images - SHARES[0] * total).argmin(), 1, n - 2))
    second = int(
        np.clip(np.abs(images - (SHARES[0] + SHARES[1]) * total).argmin(), first + 1, n - 1)
    )
    counts = np.array([images[first], images[second] - images[first], total - images[second]])
    error = float(np.square(counts - np.array(SHARES) * total).sum())
    return error, first, second
