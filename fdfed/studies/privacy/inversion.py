"""Image reconstruction by a learned inverse: from what is seen to the picture behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdfed.studies.privacy.vectors import Array

_STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)
"""λ to choose from. The largest is nearly the mean picture: an attacker who finds nothing in what
he sees loses little."""
_FOLDS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class LearnedInverse:
    """Ridge regression from features to pixels, fitted on the attacker's own (proxy) images.

        x̂ = x̄ + k(f)ᵀ (K + λ I)⁻¹ (X - x̄),   K_ij = <f_i, f_j> / d,   features standardised

    The attacker has the common model and images of the same kind, so he can compute what *they*
    would send, and learn the way back. This is the training-based inversion of Yang et al. 2019,
    arXiv:1902.08552, with a linear map, for which some hundred proxies are enough.
    """

    centre: NDArray[Any]
    scale: NDArray[Any]
    known: NDArray[Any]
    """(n, d), standardised."""
    weights: Array
    """(n, pixels)."""
    mean_picture: Array

    @classmethod
    def fit(
        cls, features: NDArray[Any], pictures: Array, *, groups: Sequence[str]
    ) -> LearnedInverse:
        """The inverse with the λ that does best on proxies of patients that were left out.

        Args:
            features: (n, d), what the proxies would send.
            pictures: (n, pixels).
            groups: whose each proxy is.
        """
        centre, spread = features.mean(0), features.std(0)
        # A feature that hardly varies over proxies would be blown up in the victim's.
        scale = spread + 1e-3 * float(spread.max()) + 1e-12
        known = (features - centre) / scale
        kernel = _kernel(known, known)
        strength = _best_strength(kernel, pictures, groups)
        mean = pictures.mean(0)
        weights = np.linalg.solve(kernel + strength * np.eye(len(kernel)), pictures - mean)
        return cls(centre, scale, known, weights, mean)

    def guess(self, features: NDArray[Any]) -> Array:
        """The pictures (m, pixels) behind `features` (m, d)."""
        seen = (features - self.centre) / self.scale
        guess: Array = self.mean_picture + _kernel(seen, self.known) @ self.weights
        return guess


def _kernel(first: NDArray[Any], second: NDArray[Any]) -> Array:
    kernel: Array = (first @ second.T).astype(np.float64) / first.shape[1]
    return kernel


def _best_strength(kernel: Array, pictures: Array, groups: Sequence[str]) -> float:
    names = {name: k % _FOLDS for k, name in enumerate(sorted(set(groups)))}
    fold = np.array([names[name] for name in groups])
    errors = np.zeros(len(_STRENGTHS))
    for k in range(_FOLDS):
        out, kept = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        if not len(out) or not len(kept):
            continue
        mean = pictures[kept].mean(0)
        values, vectors = np.linalg.eigh(kernel[np.ix_(kept, kept)])
        turned = vectors.T @ (pictures[kept] - mean)
        across = kernel[np.ix_(out, kept)] @ vectors
        for i, strength in enumerate(_STRENGTHS):
            guess = mean + (across / (np.maximum(values, 0) + strength)) @ turned
            errors[i] += float(np.square(guess - pictures[out]).sum())
    return _STRENGTHS[int(errors.argmin())]
