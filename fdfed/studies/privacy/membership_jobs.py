"""Membership inference on a model, on weight updates and on prototypes, with each defence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from fdfed.evaluation.metrics import aggregate, image_scores
from fdfed.networks import SegmentationNetwork
from fdfed.privacy.accounting import Release, derived_delta, epsilon_of
from fdfed.studies.privacy.dp_release import NOISE_MULTIPLIER, DpRelease
from fdfed.studies.privacy.federation import (
    NOISE,
    Trained,
    gradients_of,
    hospitals_of,
    train_federated,
    train_with_dp,
)
from fdfed.studies.privacy.membership import loss_scores, release_scores, update_scores
from fdfed.studies.privacy.observed import log_gaps, released_prototypes
from fdfed.studies.privacy.ranking import auc, bootstrap_interval, tpr_at_fpr
from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Images, Population, Setting
from fdfed.studies.privacy.vectors import Array
from fdfed.training.initialise import initial_network
from fdfed.training.step import layout_of

_RELEASES: Final = 10
"""Rounds in which prototypes are released with noise."""
NULL: Final = "null: "
"""Begins a row in which images that took no part stand in the members' place: its AUC is what the
difference between the two folds gives by itself, and what the row above it must beat."""
_GENTLE_SHARE: Final = 0.25
"""Rounds of the model that is not overfit, over those of the one that is."""


def membership_jobs() -> Mapping[str, Callable[[Setting, Population], list[Row]]]:
    """The jobs of the part `membership`, by name."""
    return {
        "releases": release_rows,
        "overfit": overfit_rows,
        "gentle": gentle_rows,
        "dp-sgd": dp_rows,
    }


def overfit_rows(setting: Setting, population: Population) -> list[Row]:
    """The positive control: a model that was trained until it knew its images; all that it, its
    updates and its prototypes tell."""
    trained = train_federated(setting, population.members, augment=False, rounds=setting.rounds)
    label = "none: overfit"
    rows = _model_rows(setting, population, trained, label)
    rows += _update_rows(setting, population, trained, label)
    return rows + _prototype_rows(setting, population, trained.network, attack="prototypes")


def release_rows(setting: Setting, population: Population) -> list[Row]:
    """Prototypes under the first weights, which know no image: what is found is in the release.
    An overfit model knows its images itself, and tells members by their features alone."""
    network = initial_network(setting.plan).eval()
    return _prototype_rows(setting, population, network, attack="prototypes, first weights")


def gentle_rows(setting: Setting, population: Population) -> list[Row]:
    """The same training, a quarter as long and with mirrored images."""
    rounds = max(setting.watched, round(_GENTLE_SHARE * setting.rounds))
    trained = train_federated(setting, population.members, augment=True, rounds=rounds)
    label = "stopped early, augmented"
    rows = _model_rows(setting, population, trained, label)
    return rows + _update_rows(setting, population, trained, label)


def dp_rows(setting: Setting, population: Population) -> list[Row]:
    """DP-SGD on the weights."""
    steps = max(setting.watched, setting.rounds * setting.steps // 4)
    trained = train_with_dp(setting, population.members, steps=steps)
    label = f"DP-SGD, σ = {NOISE:g}, ε = {trained.epsilon:.1f} an image"
    rows = _model_rows(setting, population, trained, label)
    return rows + _update_rows(setting, population, trained, label)


def _model_rows(
    setting: Setting, population: Population, trained: Trained, defence: str
) -> list[Row]:
    decoyed = replace(population, members=population.decoys)
    rows = []
    for people, label in ((population, defence), (decoyed, NULL + defence)):
        scores = [loss_scores(trained.network, part) for part in (people.members, people.others)]
        rows += _ranked(setting, people, *scores, attack="loss of the model", defence=label)
        for name, part in (("members", people.members), ("others", people.others)):
            rows.append(
                Row(
                    part="membership",
                    attack="loss of the model",
                    defence=label,
                    measure=f"Dice of {name}",
                    value=_dice(trained.network, part),
                    n=len(part),
                )
            )
    return rows


def _update_rows(
    setting: Setting, population: Population, trained: Trained, defence: str
) -> list[Row]:
    """One site's update against its own members; then the sum of all sites against all members,
    which is what the coordinator has under secure aggregation."""
    first = hospitals_of(setting, population.members, augment=False)[0].images
    one = [updates[0] for updates in trained.watched.updates]
    total = [np.sum(updates, axis=0) for updates in trained.watched.updates]
    summed = f"{defence}; secure sum of {setting.shares}"
    views = (
        (first, one, defence),
        (population.decoys, one, NULL + defence),
        (population.members, total, summed),
        (population.decoys, total, NULL + summed),
    )
    rows = []
    for members, updates, label in views:
        people = replace(population, members=members)
        scores = [
            update_scores(
                updates, [gradients_of(before, part) for before in trained.watched.before]
            )
            for part in (people.members, people.others)
        ]
        rows += _ranked(setting, people, *scores, attack="weight updates", defence=label)
    return rows


def _prototype_rows(
    setting: Setting, population: Population, network: SegmentationNetwork, *, attack: str
) -> list[Row]:
    """One epoch's prototypes of all members, as sites send them in batches of n images."""
    members, others = population.members, population.others
    # Half of the others are the attacker's reference, the other half the non-members to be told.
    proxies = others.take(range(0, len(others), 2))
    people = replace(population, others=others.take(range(1, len(others), 2)))
    single = {
        name: released_prototypes(network, part, [[i] for i in range(len(part))])
        for name, part in (("members", members), ("others", people.others), ("own", proxies))
    }
    gaps = {name: log_gaps(network, frames) for name, frames in single.items()}
    nothing = {name: np.zeros((len(frames), 1)) for name, frames in single.items()}
    rows = []
    order = np.random.default_rng(setting.seed).permutation(len(members)).tolist()
    for count in (1, 2, 8):
        batches = [order[i : i + count] for i in range(0, len(members), count)]
        sent = released_prototypes(network, members, batches)
        null = released_prototypes(network, population.decoys, batches)
        views = {
            "none" if count == 1 else "none but the mean": (sent, single),
            "blinded: distances": (log_gaps(network, sent), gaps),
            "sealed: length of a ciphertext": (np.zeros((len(sent), 1)), nothing),
            f"{NULL}plain": (null, single),
            f"{NULL}distances": (log_gaps(network, null), gaps),
        }
        for defence, (seen, known) in views.items():
            scores = [
                release_scores(seen, known[key], known["own"]) for key in ("members", "others")
            ]
            text = f"batches of {count}"
            rows += _ranked(setting, people, *scores, attack=attack, defence=defence, text=text)
    return rows + _dp_release_rows(setting, people, network, single, attack=attack)


def _dp_release_rows(
    setting: Setting,
    people: Population,
    network: SegmentationNetwork,
    single: Mapping[str, Array],
    *,
    attack: str,
) -> list[Row]:
    """Prototypes of all members, released once a round in 16 dimensions with noise."""
    n = len(people.members)
    release = DpRelease(layout_of(network), images=n, seed=setting.seed)
    known = {key: release.vectors(frames) for key, frames in single.items()}
    decoys = released_prototypes(network, people.decoys, [[i] for i in range(n)])
    spent = Release(noise_multiplier=NOISE_MULTIPLIER, sample_rate=1.0, steps=_RELEASES)
    epsilon = epsilon_of([spent], delta=derived_delta(n))
    label = f"DP, σ = 1, {_RELEASES} releases, ε = {epsilon:.1f} an image"
    rows = []
    for vectors, defence in ((known["members"], label), (release.vectors(decoys), NULL + label)):
        sent = release.released(vectors, [range(n)], times=_RELEASES)
        scores = [release_scores(sent, known[key], known["own"]) for key in ("members", "others")]
        text = f"all {n}, once a round"
        rows += _ranked(setting, people, *scores, attack=attack, defence=defence, text=text)
    return rows


def _ranked(
    setting: Setting,
    people: Population,
    members: Array,
    others: Array,
    *,
    attack: str,
    defence: str,
    text: str = "",
) -> list[Row]:
    rows = []
    for measure, statistic, chance in (
        ("AUC", auc, 0.5),
        ("TPR at 1 % FPR", tpr_at_fpr, 0.01),
    ):
        low, high = bootstrap_interval(
            statistic,
            members,
            others,
            member_patients=people.members.patients,
            other_patients=people.others.patients,
            rng=np.random.default_rng(setting.seed),
            draws=setting.bootstrap,
        )
        rows.append(
            Row(
                part="membership",
                attack=attack,
                defence=defence,
                setting=text,
                measure=measure,
                value=statistic(members, others),
                low=low,
                high=high,
                reference=chance,
                n=len(members) + len(others),
            )
        )
    return rows


@torch.no_grad()
def _dice(network: SegmentationNetwork, images: Images) -> float:
    names = [str(i) for i in range(len(images))]
    scores = image_scores(network(images.image), images.mask, names)
    overall = aggregate((score.dice for score in scores), min_count=1)
    return float("nan") if overall is None else overall.mean
