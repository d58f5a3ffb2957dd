"""Attacks on blinding, on the prototypes of one tap of a network with its first weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdfed.exchange import BlindingSecret, StepKey, TapLayout
from fdfed.studies.privacy.collusion import blinded, opened
from fdfed.studies.privacy.gram import most_alike, points_from_distances, squared_distances
from fdfed.studies.privacy.known_plaintext import fit_isometry, undo
from fdfed.studies.privacy.known_sample import fit_by_principal_axes
from fdfed.studies.privacy.norms import longer_one_found
from fdfed.studies.privacy.observed import released_prototypes
from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Images, Population, Setting
from fdfed.studies.privacy.side_channel import fit_by_regression
from fdfed.studies.privacy.vectors import Array, mean_error, relative_error
from fdfed.training.initialise import initial_network
from fdfed.training.step import layout_of

TAP: Final = "Enc4"
"""64 channels at width 8: a power of two, so that nothing is padded and the attacker knows all."""


def isometry_jobs() -> Mapping[str, Callable[[Setting, Population], list[Row]]]:
    """The jobs of attacks 1 to 5, by name."""
    return {
        "gram": gram_rows,
        "known-plaintext": known_plaintext_rows,
        "known-sample": known_sample_rows,
        "side-channel": side_channel_rows,
        "collusion": collusion_rows,
    }


def pools(setting: Setting, population: Population, count: int) -> tuple[Array, Array]:
    """Foreground and background prototypes of one tap, (count, 2 C) each, of batches of two images
    drawn at random: the victims' (members), and the attacker's own (others)."""
    rng = np.random.default_rng(setting.seed)
    return _pool(setting, population.members, count, rng), _pool(
        setting, population.others, count, rng
    )


def _pool(setting: Setting, images: Images, count: int, rng: np.random.Generator) -> Array:
    network = initial_network(setting.plan).eval()
    single = released_prototypes(network, images, [[i] for i in range(len(images))])
    spans = {name: (fore, back) for name, fore, back in layout_of(network).spans()}
    tap = np.concatenate([single[:, part] for part in spans[TAP]], axis=1)
    first, second = (rng.integers(0, len(images), count) for _ in range(2))
    means: Array = 0.5 * (tap[first] + tap[second])
    return means


def layout_of_tap(points: Array) -> TapLayout:
    """The layout of one tap, of frames (n, 2 C)."""
    return TapLayout((TAP,), (points.shape[-1] // 2,))


def _sent(points: Array, *, fresh: bool, first_step: int = 0) -> Array:
    """What the coordinator receives of rows (n, 2 C): under one map, or under one a step."""
    layout = layout_of_tap(points)
    secret = BlindingSecret.known_to_all(0)
    return np.stack(
        [
            blinded(row, layout, key=_key(first_step + i if fresh else 0), secret=secret)
            for i, row in enumerate(points)
        ]
    )


def _key(step: int) -> StepKey:
    return StepKey("0" * 16, 1, 1, step)


def _halves(points: Array) -> Array:
    """Frames (n, 2 C) as single points (2 n, C)."""
    return points.reshape(-1, points.shape[-1] // 2)


def gram_rows(setting: Setting, population: Population) -> list[Row]:
    """Distances under every form of blinding."""
    victims, own = pools(setting, population, 200)
    rows = []
    for defence, fresh in (("fixed map", False), ("fresh map", True)):
        within, guesses, alike = [], [], 0
        for step in range(40):
            frames = victims[5 * step : 5 * step + 5]
            # The five sites of one step share that step's map.
            layout, secret = layout_of_tap(frames), BlindingSecret.known_to_all(0)
            key = _key(step if fresh else 0)
            seen = _halves(np.stack([blinded(f, layout, key=key, secret=secret) for f in frames]))
            plain, shown = squared_distances(_halves(frames)), squared_distances(seen)
            losses = [-np.log(np.diag(d[::2, 1::2])) for d in (plain, shown)]
            within.append(relative_error(losses[1], losses[0]))
            alike += most_alike(shown[::2, ::2]) == most_alike(plain[::2, ::2])
            guess = points_from_distances(shown, frames.shape[1] // 2) + _halves(own).mean(0)
            guesses.append(relative_error(guess, _halves(frames)))
        reference = mean_error(_halves(own), _halves(victims))
        values = [
            ("L_fd of each site, relative error", float(np.mean(within)), None),
            ("two most alike sites named", alike / 40, 0.1),
            ("prototypes, relative error", float(np.mean(guesses)), reference),
        ]
        rows += [
            Row(
                part="isometry",
                attack="1 Gram leakage",
                defence=defence,
                setting="5 sites",
                measure=measure,
                value=value,
                reference=base,
                n=40,
            )
            for measure, value, base in values
        ]
    return rows


def _error_row(
    attack: str, defence: str, setting: str, errors: list[float], reference: float
) -> Row:
    return Row(
        part="isometry",
        attack=attack,
        defence=defence,
        setting=setting,
        measure="prototypes, relative error",
        value=float(np.mean(errors)),
        reference=reference,
        n=len(errors),
    )


def known_plaintext_rows(setting: Setting, population: Population) -> list[Row]:
    """Procrustes with so many known pairs, under one map and under fresh ones."""
    victims, own = pools(setting, population, 200)
    # An insider's own frames are the known ones; ten frames of a victim are opened.
    targets = victims[:10]
    reference = mean_error(_halves(own), _halves(targets))
    rows = []
    for fresh, defence in ((False, "fixed map"), (True, "fresh map")):
        for frames in (4, 16, 33, 66):
            known = _halves(own[:frames])
            q, t = fit_isometry(known, _halves(_sent(own[:frames], fresh=fresh)))
            seen = _sent(targets, fresh=fresh, first_step=1000)
            errors = [
                relative_error(undo(q, t, row), truth)
                for row, truth in zip(_halves(seen), _halves(targets), strict=True)
            ]
            pairs = f"{2 * frames} pairs"
            rows.append(_error_row("2 known plaintext", defence, pairs, errors, reference))
    return rows


def known_sample_rows(setting: Setting, population: Population) -> list[Row]:
    """Principal axes of so many blinded prototypes against those of the attacker's own images.

    `own`: of the victims' distribution itself, as an attacker has at best; `others`: of patients
    of the same sites' validation folds.
    """
    victims, own = pools(setting, population, setting.samples)
    again = _pool(
        setting, population.members, setting.samples, np.random.default_rng(setting.seed + 1)
    )
    # Foreground and background are two distributions; the foreground's is used.
    half = victims.shape[1] // 2
    known = {"the victims' own": again[:, :half], "other patients'": own[:, :half]}
    most = setting.samples
    rows = []
    for fresh, counts in (
        (False, (most // 100, most // 10, most)),
        (True, (most // 100, most // 10)),
    ):
        seen = _sent(victims[: max(counts)], fresh=fresh)[:, :half]
        for count in counts:
            for source, sample in known.items():
                # Which axes are mixed up is chance, so several draws of so many samples count.
                errors = [
                    _by_axes(sample, seen[chosen], victims[chosen, :half])
                    for chosen in _subsets(len(seen), count, setting.seed)
                ]
                text = f"{count} samples; {source} distribution known"
                reference = mean_error(sample, victims[:100, :half])
                row = _error_row(
                    "3 known sample",
                    "fresh map" if fresh else "fixed map",
                    text,
                    errors,
                    reference,
                )
                rows.append(row)
    return rows


def _subsets(total: int, count: int, seed: int) -> list[NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    return [rng.choice(total, count, replace=False) for _ in range(10)]


def _by_axes(known: Array, seen: Array, truths: Array) -> float:
    q, t = fit_by_principal_axes(known, seen)
    return relative_error(undo(q, t, seen[:100]), truths[:100])


def side_channel_rows(setting: Setting, population: Population) -> list[Row]:
    """Regression of a bias gradient on the cotangents that the coordinator computed. Cotangents
    and segmentation gradients are drawn, normal and of equal length."""
    victims, own = pools(setting, population, 50)
    rng, half = np.random.default_rng(setting.seed), victims.shape[1] // 2
    differences = victims[:, :half] - victims[:, half:]
    reference = mean_error(own[:, :half] - own[:, half:], differences)
    seen_steps = setting.steps_seen
    rows = []
    for defence, fresh, hidden in (
        ("fixed map", False, False),
        ("fresh map", True, False),
        ("fixed map, weights masked", False, True),
    ):
        for steps in (seen_steps // 50, seen_steps // 5, seen_steps):
            g, seg = rng.normal(size=(2, steps, half))
            shown = _difference(_sent(np.concatenate([g, 0 * g], axis=1), fresh=fresh))
            gradients = g + seg
            if hidden:
                # A pairwise mask is uniform over the whole range of the fixed point.
                gradients = rng.uniform(-(2.0**23), 2.0**23, size=gradients.shape)
            q = fit_by_regression(gradients, shown)
            # t drops out of F - B, which is what the map's linear part opens.
            seen = _difference(_sent(victims, fresh=fresh, first_step=steps))
            errors = [
                relative_error(row @ q, truth) for row, truth in zip(seen, differences, strict=True)
            ]
            row = _error_row("4 weight gradients", defence, f"{steps} steps", errors, reference)
            rows.append(replace(row, measure="F - B, relative error"))
    return rows


def _difference(frames: Array) -> Array:
    half = frames.shape[1] // 2
    difference: Array = frames[:, :half] - frames[:, half:]
    return difference


def collusion_rows(setting: Setting, population: Population) -> list[Row]:
    """The group secret opens every site's frame; another secret opens none."""
    victims, own = pools(setting, population, 50)
    layout, secret = layout_of_tap(victims), BlindingSecret.known_to_all(0)
    rows = []
    for defence, held in (
        ("none: a site gives the secret", secret),
        ("fresh map, secret kept", BlindingSecret.known_to_all(1)),
    ):
        errors = []
        for step, truth in enumerate(victims):
            sent = blinded(truth, layout, key=_key(step), secret=secret)
            errors.append(relative_error(opened(sent, layout, key=_key(step), secret=held), truth))
        rows.append(_error_row("5 collusion", defence, "", errors, mean_error(own, victims)))
    return rows


def norm_rows(setting: Setting, population: Population) -> list[Row]:
    """Which of two prototypes is twice as long, from lengths alone."""
    victims, _ = pools(setting, population, 1)
    steps = setting.steps_seen // 5
    half = victims.shape[1] // 2
    # The length of real prototypes, which t must cover: its scale is about that of ReLU features.
    frames = {scale: np.repeat(scale * victims, steps, axis=0) for scale in (1.0, 2.0)}
    rows = []
    for defence in ("t = 0", "t drawn every step"):
        seen = {}
        for scale, points in frames.items():
            first = int(scale) * steps
            sent = _sent(points, fresh=True, first_step=first)
            if defence == "t = 0":
                sent = sent - _sent(0 * points, fresh=True, first_step=first)
            seen[scale] = sent[:, :half]
        for average in (1, 10, 100):
            rows.append(
                Row(
                    part="isometry",
                    attack="7 lengths",
                    defence=defence,
                    setting=f"mean of {average} steps",
                    measure="longer one of two named",
                    value=longer_one_found(seen[2.0], seen[1.0], steps=average),
                    reference=0.5,
                    n=steps // average,
                )
            )
    return rows
