"""What protected a run and what left each site, in sentences that a hospital can check."""

from __future__ import annotations

from fdfed.config import STRATEGY_NAMES, RunPlan
from fdfed.evaluation.results import PrivacyResult, RunResults


def privacy_statement(results: RunResults) -> str:
    """Whether the run was differentially private, and what that means."""
    privacy = results.privacy
    if privacy.differential_privacy and privacy.epsilon is not None:
        return _differential(privacy)
    return (
        "No differential privacy: no ε is claimed. Weights and prototypes are computed from "
        "images, and may tell something about them to whoever receives them."
    )


def _differential(privacy: PrivacyResult) -> str:
    spent = "; ".join(
        f"{site} ε = {entry.epsilon:.3g} at δ = {entry.delta:.2g}, for any one {entry.unit} of its "
        f"{entry.units} training {entry.unit}s"
        for site, entry in privacy.sites.items()
    )
    sentences = [
        f"Differential privacy. Each site's own ledger says what all its releases together spent: "
        f"{spent}.",
        "An ε above 1 with a δ near one over the number of units is a weak promise; ε = 8 allows "
        "an observer's odds on one patient to change almost three thousandfold.",
        "It speaks of training images; scores of validation and test images are means without "
        "noise. The run is not exact: its update is not that of the pooled objective.",
    ]
    if not privacy.weights_protected:
        sentences.append(
            "It speaks of the prototypes alone: the weights left without noise, and no ε bounds "
            "what they tell."
        )
    if privacy.stopped is not None:
        sentences.append(f"Not all rounds were trained: {privacy.stopped}.")
    return " ".join(sentences)


def what_left(results: RunResults, plan: RunPlan) -> list[str]:
    """Everything that leaves a site in such a run, one sentence each."""
    privacy = results.privacy
    if plan.strategy == "pooled":
        return [
            "Images and masks: this is the pooled reference, which puts all sites' images in one "
            "place. It is what a federation avoids, and serves as a comparison only."
        ]
    scores = (
        "Validation and test scores: number, mean, standard deviation and quartiles"
        f"{f', over {privacy.min_count} images or more' if privacy.min_count > 1 else ''}; and the "
        "counts of training, validation, test and empty images."
    )
    if plan.strategy == "local":
        return [scores]
    left = [_weights(results), scores]
    if plan.privacy is not None:
        left.append("Of losses, times and the share of usable images: nothing.")
    elif privacy.secure_aggregation:
        left.append(
            "Once a round, under the same masks: the mean losses, a proposal for the weight α of "
            "each tap, and the number of images behind them."
        )
        if len(results.sites) == 2:
            left.append(
                "With two sites, each that takes its own weights from the sum has the other's. "
                "With three or more it has a sum of several."
            )
    elif plan.has_discrepancy:
        left.append(
            "Once a round: the mean losses, a proposal for the weight α of each tap, and the share "
            "of steps in which a tap had foreground and background to compare."
        )
    else:
        left.append("Once a round: the mean training loss.")
    if plan.effective_loss == "fd+exch":
        left.append(_prototypes(results, plan))
        if len(results.sites) == 2 and plan.privacy is None:
            left.append(
                "With two sites the answer to a site's prototypes depends on one peer alone, so "
                "it tells that site the peer's prototypes. With three or more it does not."
            )
    return left


def what_stayed(plan: RunPlan) -> str:
    """What has no way out of a site."""
    if plan.strategy == "pooled":
        return "Nothing: the images were pooled."
    stayed = "Images, masks, predictions, the scores of single images and file names"
    if plan.strategy == "local":
        stayed += ", and the weights"
    if plan.strategy == "fedbn":
        stayed += ", and the normalisation layers"
        stayed += " with their running statistics" if plan.norm == "batch" else ""
    if plan.strategy not in STRATEGY_NAMES:
        stayed += f", and what the strategy {plan.strategy} keeps of the weights"
    if plan.auxiliary_loss is not None:
        stayed += ", and the heads of the auxiliary loss"
    return stayed + "."


def setting(results: RunResults) -> str:
    """How the messages travelled."""
    transport = results.privacy.transport
    if transport == "in one process":
        return (
            "This was a simulation in one process: nothing travelled over a network. The list is "
            "what would leave each site in the same run between hospitals."
        )
    return f"Messages travelled over {transport}."


def _weights(results: RunResults) -> str:
    if results.privacy.weights_protected:
        return (
            "The network's weights after each round, trained by DP-SGD: the noise is in each step, "
            "before the coordinator sees them."
        )
    if results.privacy.secure_aggregation:
        return (
            "The network's weights after each round, under masks that cancel in the sum: the "
            "coordinator sees the sum over sites, not one site's weights."
        )
    return "The network's weights after each round; the coordinator sees each site's own."


def _prototypes(results: RunResults, plan: RunPlan) -> str:
    privacy = results.privacy
    if plan.privacy is not None:
        return (
            "In phase 2, once a round: one noisy mean, over all training units, of the foreground "
            "and background feature vectors of each tap, projected to a few dimensions. The "
            "coordinator reads it."
        )
    sentence = (
        "In phase 2, with each step: the mean foreground and the mean background feature vector "
        "of the batch at each tap (prototypes)"
    )
    if privacy.blinded:
        sentence += (
            ", turned and shifted by a secret that the sites share and the coordinator lacks: it "
            "learns their distances, not the prototypes"
        )
    else:
        sentence += ", readable by the coordinator"
    return sentence + (" (encrypted from site to coordinator)." if privacy.sealed else ".")
