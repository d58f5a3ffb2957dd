"""Membership inference on a model, on weight updates and on prototypes, with each defence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from fdfed.evaluation.aggregates import aggregate
from fdfed.evaluation.metrics import image_scores
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
    return rows + _prototype_rows(
        setting, population, trained.network, attack="prototypes, overfit model"
    )


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
    members, others, decoys = (
        loss_scores(trained.network, part)
        for part in (population.members, population.others, population.decoys)
    )
    attack = "loss of the model"
    rows = _ranked(
        setting,
        population,
        (members, others),
        null=(decoys, others),
        attack=attack,
        defence=defence,
    )
    for name, part in (("members", population.members), ("others", population.others)):
        dice = _dice(trained.network, part)
        rows.append(
            Row(
                part="membership",
                attack=attack,
                defence=defence,
                measure=f"Dice of {name}",
                value=dice,
                n=len(part),
            )
        )
    return rows


def _update_rows(
    setting: Setting, population: Population, trained: Trained, defence: str
) -> list[Row]:
    """One site's update against its own members; then the sum of all sites against all members,
    which is what the coordinator has under secure aggregation."""
    watched = trained.watched
    first = hospitals_of(setting, population.members, augment=False)[0].images
    views = (
        (first, [updates[0] for updates in watched.updates], defence),
        (
            population.members,
            [np.sum(updates, axis=0) for updates in watched.updates],
            f"{defence}; secure sum of {setting.shares}",
        ),
    )
    rows = []
    for images, updates, label in views:
        people = replace(population, members=images)
        members, others, decoys = (
            update_scores(updates, [gradients_of(before, part) for before in watched.before])
            for part in (images, population.others, population.decoys)
        )
        rows += _ranked(
            setting,
            people,
            (members, others),
            null=(decoys, others),
            attack="weight updates",
            defence=label,
        )
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
        decoyed = released_prototypes(network, population.decoys, batches)
        silent = np.zeros((len(sent), 1))
        views = {
            "none" if count == 1 else "none but the mean": (sent, decoyed, single),
            "blinded: distances": (log_gaps(network, sent), log_gaps(network, decoyed), gaps),
            "sealed: length of a ciphertext": (silent, silent, nothing),
        }
        for defence, (seen, null, known) in views.items():
            rows += _ranked(
                setting,
                people,
                _release_scores(seen, known),
                null=_release_scores(null, known),
                attack=attack,
                defence=defence,
                text=f"batches of {count}",
            )
    return rows + _dp_release_rows(setting, people, network, single, attack=attack)


def _release_scores(released: Array, known: Mapping[str, Array]) -> tuple[Array, Array]:
    """Of the members and of the others."""
    members, others = (
        release_scores(released, known[key], known["own"]) for key in ("members", "others")
    )
    return members, others


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
    sent, decoyed = (
        release.released(vectors, [range(n)], times=_RELEASES)
        for vectors in (known["members"], release.vectors(decoys))
    )
    return _ranked(
        setting,
        people,
        _release_scores(sent, known),
        null=_release_scores(decoyed, known),
        attack=attack,
        defence=f"DP, σ = 1, {_RELEASES} releases, ε = {epsilon:.1f} an image",
        text=f"all {n}, once a round",
    )


def _ranked(
    setting: Setting,
    people: Population,
    scores: tuple[Array, Array],
    *,
    null: tuple[Array, Array],
    attack: str,
    defence: str,
    text: str = "",
) -> list[Row]:
    """AUC and TPR of the scores of members and others. The reference is what the same attack gives
    on `null`, where images that took no part stand in the members' place: the two folds differ,
    so chance is not exactly one half."""
    rows = []
    for measure, statistic in (("AUC", auc), ("TPR at 1 % FPR", tpr_at_fpr)):
        low, high = bootstrap_interval(
            statistic,
            *scores,
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
                value=statistic(*scores),
                low=low,
                high=high,
                reference=statistic(*null),
                n=sum(map(len, scores)),
            )
        )
    return rows


@torch.no_grad()
def _dice(network: SegmentationNetwork, images: Images) -> float:
    names = [str(i) for i in range(len(images))]
    scores = image_scores(network(images.image), images.mask, names)
    overall = aggregate((score.dice for score in scores), min_count=1)
    return float("nan") if overall is None else overall.mean
