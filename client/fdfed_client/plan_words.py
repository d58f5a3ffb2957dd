"""A run plan in the words of the person who must decide whether the hospital takes part."""

from __future__ import annotations

from typing import Final

from fdfed.config import RunPlan

_BLINDING: Final = {
    "on": "blinded with a secret of the sites, which the coordinator does not hold",
    "deterministic": "blinded by the plan's seed, WHICH HIDES NOTHING from the coordinator",
}


def plan_in_words(plan: RunPlan) -> list[tuple[str, str]]:
    """What the plan asks for, a heading and a sentence each; the last one is the hash."""
    return [
        ("sites", f"{len(plan.sites)}: {', '.join(plan.sites)}"),
        ("network", _network(plan)),
        (
            "training",
            f"{plan.rounds} rounds of {plan.steps_per_round} steps, {plan.batch_size} images a "
            f"step; strategy {plan.strategy}, loss {plan.effective_loss}",
        ),
        ("what leaves", _leaves(plan)),
        ("aggregation", _aggregation(plan)),
        ("exchange", _exchange(plan)),
        ("privacy", _privacy(plan)),
        ("scores", f"aggregates over at least {plan.min_count} images, never of a single one"),
        ("hash", plan.digest),
    ]


def _network(plan: RunPlan) -> str:
    width = "the paper's width" if plan.width is None else f"width {plan.width}"
    how = f"random squares of {plan.crop} px" if plan.crop else f"whole at {plan.size} px"
    return f"{plan.network}, {width}; images {how}, {plan.in_channels} channel(s)"


def _leaves(plan: RunPlan) -> str:
    if plan.strategy == "local":
        return "no weights; losses and scores as means"
    if plan.privacy is not None:
        noisy = ", and noisy mean prototypes once a round" if plan.privacy.prototypes else ""
        return f"weights and scores of {plan.rounds} rounds{noisy}; no loss, never an image or mask"
    frames = (plan.rounds - plan.phase_1_rounds) * plan.steps_per_round
    prototypes = (
        f", and prototypes of up to {frames} batches" if plan.effective_loss == "fd+exch" else ""
    )
    return f"weights, losses and scores of {plan.rounds} rounds{prototypes}; never an image or mask"


def _aggregation(plan: RunPlan) -> str:
    if plan.aggregation == "masked":
        return "masked: the coordinator learns the sum over the sites, not one site's weights"
    sees = "the coordinator sees this site's weights after every round"
    if plan.update_precision != "full":
        sees += f", as their changes rounded to {plan.update_precision}"
    if plan.aggregation == "robust":
        middle = plan.defence.robust.replace("_", " ")
        return f"robust: {sees}, keeps them on its disk for the round, and takes the {middle}"
    return f"{plan.aggregation}: {sees}"


def _exchange(plan: RunPlan) -> str:
    if plan.effective_loss != "fd+exch":
        return "none: no prototype leaves"
    if plan.privacy is not None:
        return "none per batch: prototypes leave once a round, noisy, readable by the coordinator"
    rules = plan.exchange
    return (
        f"mean features of each batch, {_BLINDING[rules.blinding]}; of at least "
        f"{rules.min_images} images, {rules.min_patients} patients and {rules.min_pixels} pixels; "
        f"with at least {rules.min_sites} sites"
    )


def _privacy(plan: RunPlan) -> str:
    if plan.privacy is None:
        return "no differential privacy: there is no bound on what the weights tell"
    return (
        f"ε of at most {plan.privacy.epsilon:g} a {plan.privacy.unit}, over all runs of this site, "
        f"at δ {plan.privacy.delta}; {plan.privacy.summary()}"
    )
