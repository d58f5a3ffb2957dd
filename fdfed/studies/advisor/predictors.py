"""Three trivial predictors of what a candidate site will do: share, histograms, a classifier.

They look at images, which the advisor does not, and at no network. What cannot beat them is not
worth its trouble.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from scipy import stats

from fdfed.data import SiteData

_QUANTILES: Final = 256
_FOLDS: Final = 5
_RIDGE: Final = 1e-3
"""Added to the pooled covariance, in units of its mean variance."""

Rows = Float[np.ndarray, "images features"]


def share_of(base: SiteData, novel: SiteData) -> float:
    """The candidate's training images over those of both."""
    own, added = (len(site.parts["train"]) for site in (base, novel))
    return added / (own + added)


def histogram_distance(base: SiteData, novel: SiteData) -> float:
    """The Wasserstein distance between the grey levels of all training pixels, in [0, 1].

    The mean absolute difference of quantiles, each image counting alike.
    """
    first, second = (_grey_quantiles(site) for site in (base, novel))
    return float(np.abs(first - second).mean())


def classifier_auc(base: SiteData, novel: SiteData) -> float:
    """How well the two sites' training images are told apart by their grey levels: the AUC, out of
    fold, of Fisher's linear discriminant on each image's mean, spread and quartiles of each
    channel. 1/2 is chance; the images of a patient are in one fold."""
    first, second = (_features(site) for site in (base, novel))
    rows = np.concatenate((first, second))
    label = np.repeat((0, 1), (len(first), len(second)))
    fold = np.concatenate([_folds(site) for site in (base, novel)])
    scores = np.empty(len(rows))
    for left_out in range(_FOLDS):
        test = fold == left_out
        if test.any():
            scores[test] = _discriminant(rows[~test], label[~test], rows[test])
    return auc(scores[label == 0], scores[label == 1])


def auc(negative: Float[np.ndarray, " n"], positive: Float[np.ndarray, " m"]) -> float:
    """The probability that a positive scores above a negative, ties counting half."""
    ranks = stats.rankdata(np.concatenate((negative, positive)))
    above = ranks[len(negative) :].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(negative) * len(positive)))


def _grey_quantiles(site: SiteData) -> Float[np.ndarray, " quantiles"]:
    at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    images = (site.samples[index]["image"].numpy().mean(0) for index in site.parts["train"])
    # Equal numbers of each image's pixels: one of a larger image must not count more.
    thinned = [np.quantile(image, at) for image in images]
    return np.asarray(np.quantile(np.concatenate(thinned), at))


def _features(site: SiteData) -> Rows:
    return np.stack(
        [_feature_row(site.samples[index]["image"].numpy()) for index in site.parts["train"]]
    )


def _feature_row(image: Float[np.ndarray, "c h w"]) -> Float[np.ndarray, " features"]:
    pixels = image.reshape(len(image), -1)
    quartiles = np.quantile(pixels, (0.25, 0.5, 0.75), axis=1)
    return np.concatenate((pixels.mean(1), pixels.std(1), quartiles.ravel()))


def _folds(site: SiteData) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    patients = [case.patient for case in site.cases("train")]
    order = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    return np.array([order[patient] % _FOLDS for patient in patients], dtype=np.int64)


def _discriminant(
    rows: Rows, label: np.ndarray, test: Float[np.ndarray, "tested features"]
) -> Float[np.ndarray, " tested"]:
    groups = [rows[label == kind] for kind in (0, 1)]
    if min(map(len, groups)) < 2:
        return np.zeros(len(test))
    scatter = sum(np.cov(group, rowvar=False) * (len(group) - 1) for group in groups)
    pooled = np.asarray(scatter) / (len(rows) - 2)
    # Grey images have three equal channels, so the covariance alone is singular.
    pooled += np.eye(len(pooled)) * (_RIDGE * np.trace(pooled) / len(pooled) + 1e-12)
    direction = np.linalg.solve(pooled, groups[1].mean(0) - groups[0].mean(0))
    return np.asarray(test @ direction)
