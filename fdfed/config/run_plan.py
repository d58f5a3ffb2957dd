"""What one run does, in one frozen model that both sides hold: the run plan.

`RunPlan` is the `[run]` table of `federation.toml` and the whole of a simulation's configuration.
The coordinator sends it, as canonical JSON, with every instruction; a site computes nothing that
the plan does not say. Unknown keys are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from fdfed import plugins
from fdfed.config.defence import DefencePlan
from fdfed.config.frozen import Count, Frozen, Seconds, SiteName
from fdfed.config.method import AlphaPlan, MethodPlan, preset
from fdfed.config.privacy import PrivacyPlan
from fdfed.config.reading import parse
from fdfed.files import strict_json

LossName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+-]{0,62}$")]
UpdatePrecision = Literal["full", "fp16", "bf16"]
StrategyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Aggregation = Literal["plain", "masked", "robust"]

LOSS_NAMES: Final = ("seg", "fd", "fd+exch", "con", "deeps")
"""The losses that need no other package."""
STRATEGY_NAMES: Final = (
    "fdfed", "fedavg", "fedprox", "fedbn", "fedavgm", "fedadam", "local", "pooled",
)  # fmt: skip
"""The strategies that need no other package."""
DISCREPANCY_LOSSES: Final = ("fd", "fd+exch")

MAX_STALENESS: Final = 16
"""The most steps by which any plan lets a reply be late: hub and sites keep one frame for each."""
PHASE_1_SHARE = 100 / 175
"""Share of the rounds with α = 0: the paper trains 100 epochs without and 75 with the loss."""
POLY_POWER: Final = 0.9
"""Exponent of the falling learning rate."""


class SplitPlan(Frozen):
    """Which patients train, validate and test; the images of one patient stay together.

    By default the seed splits them 70-10-20. `held_out` fixes the test patients for every seed;
    `fold` replaces the validation patients by a fold of those that remain, and leaves the test
    part empty, so that whatever is chosen on folds has seen no test image. `set_aside` keeps the
    patients of another draw out of every part.
    """

    set_aside: str | None = Field(default=None, min_length=1, max_length=64)
    """Name of a draw, as of `held_out`, whose patients are not read at all; `held_out` draws from
    the others."""

    held_out: str | None = Field(default=None, min_length=1, max_length=64)
    """Name of a draw: a fifth of each site's patients, by the hash of (draw, site, patient), are
    the test patients."""
    fold: int | None = Field(default=None, ge=0)
    """The fold that validates, counted from 0; all others train. `None`: no folds."""
    folds: int = Field(default=3, ge=2, le=20)

    @model_validator(mode="after")
    def _check(self) -> SplitPlan:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(
                f"fold = {self.fold}, but {self.folds} folds are numbered 0 to {self.folds - 1}"
            )
        return self


class ServerPlan(Frozen):
    """The coordinator's optimiser, of `fedavgm` and `fedadam` alone."""

    learning_rate: float | None = Field(default=None, gt=0)
    """η. `None` is the strategy's own: 1 of `fedavgm`, 0.01 of `fedadam`."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """β of `fedavgm`, β₁ of `fedadam`."""
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    """β₂ of `fedadam`."""
    tau: float = Field(default=1e-3, gt=0)
    """τ of `fedadam`: how far it adapts to each weight."""


class ExchangePlan(Frozen):
    """The per-batch exchange of prototypes and cotangents."""

    deadline_seconds: Seconds = 30.0
    """How long the hub waits for a step's missing sites before it answers with those present."""
    required: bool = False
    """A step without its reply voids the round instead of dropping the term."""
    max_missed_steps: Count = 3
    """A site that misses this many steps in a row is absent for the rest of the round."""
    max_staleness: int = Field(default=0, ge=0, le=MAX_STALENESS)
    """Steps by which a reply may be late. 0: a site waits for the reply to the step it is in. Else
    it goes on with the newest reply that is at most so many steps old, and waits without one."""
    delay_steps: float = Field(default=0.0, ge=0, le=1000)
    """How long a reply takes, in steps of training. Simulations alone model it, and by it alone a
    reply is late there, so that they repeat bit for bit; a deployment has its own delay."""
    blinding: Literal["on", "deterministic"] = "on"
    """`on`: the sites agree on a fresh secret every round, which the coordinator never holds.
    `deterministic`: the secret follows from `seed`, so that runs repeat bit for bit, and hides
    nothing from whoever has the plan; for tests, and a site takes part only if its own
    configuration allows it. A simulation has nobody to hide from and is always deterministic."""
    min_sites: int = Field(default=2, ge=2, le=1_000_000)
    """Sites that must share a round's exchange. With two, a returned cotangent tells each site the
    other's prototype exactly; with three or more it is a mixture."""
    min_pixels: Count = 16
    """A tap's prototypes are sent only if foreground and background each have this many pixels, in
    all images that they are the mean of."""
    min_images: Count = 2
    """... and only if they are the mean of at least this many images ..."""
    min_patients: Count = 2
    """... of at least this many patients. Where a site has no `patients.csv`, each image counts as
    a patient of its own."""


class RunPlan(Frozen):
    """Everything that decides the result of a run, apart from the images themselves."""

    sites: tuple[SiteName, ...] = ()
    network: str = "unet"
    width: int | None = Field(default=32, ge=1, le=4096)
    """Channels of the first level; `None` is the paper's."""
    norm: Literal["batch", "group"] = "group"
    """With `strategy = "fedbn"`, which is about BatchNorm, `batch` unless it is said; with `group`
    it keeps scale and shift of the groups at the site."""
    in_channels: Literal[1, 3] = 3
    size: int = Field(default=128, ge=16, le=4096)
    """Side of the square that every image is resized to, in pixels; unused with `crop`."""
    crop: int | None = Field(default=None, ge=16, le=4096)
    """Train on random squares of this side at native resolution, in pixels, and segment whole
    images; `None` resizes to `size` instead."""
    split: SplitPlan = SplitPlan()

    strategy: StrategyName = "fdfed"
    """Which tensors travel and what follows from their mean: a built-in name, or what an installed
    package offers under `fdfed.strategies`."""
    loss: LossName | None = None
    """`None` is the strategy's own: `fd+exch` for `fdfed`, else `seg`. `con` (supervised pixel
    contrast) and `deeps` (deep supervision) are added to L_seg for comparison, and so is what an
    installed package offers under `fdfed.losses`."""
    auxiliary_weight: float | None = Field(default=None, ge=0)
    """λ of `con` (0.1) or of a package's loss, and η of `deeps` at the start (0.3); `None` is the
    loss's own. Of no effect on the others."""
    proximal_mu: float = Field(default=0.01, ge=0)
    """μ of `fedprox`: the local loss gains μ/2 ‖w − w_global‖²."""
    server: ServerPlan = ServerPlan()
    aggregation: Aggregation = "plain"
    """How weights and α are averaged; one of these, since each needs what another takes away.
    `plain`: the coordinator reads each site's update. `masked`: it reads their sum alone
    (`docs/THREAT_MODEL.md`), so that nothing that looks at a single update goes with it. `robust`:
    it reads each, and takes the trimmed mean or the median (`defence`)."""

    rounds: Count = 35
    steps_per_round: Count = 10
    evaluate_every: Count = 1
    """Validate after every round whose number this divides, and where a phase ends."""
    batch_size: Count = 8
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=3e-3, gt=0)
    learning_rate_schedule: Literal["constant", "poly"] = "poly"
    """`poly`: round r of R has (1 - (r - 1) / R)^0.9 of the learning rate, both phases together.
    The rule of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), a round at a time
    where it has epochs."""
    weight_decay: float = Field(default=1e-4, ge=0)
    precision: Literal["fp32", "amp", "auto", "fp64"] = "fp32"
    """`amp` is bf16 autocast where the device has it, else fp16 with a gradient scaler; `auto`
    lets each site measure whether that, and which memory layout, is faster on its device, so that
    runs do not repeat bit for bit; `fp64` is for the exactness tests."""
    update_precision: UpdatePrecision = "full"
    """How trained weights travel to the coordinator. `full`: whole, in the network's precision.
    `fp16`, `bf16`: as their change in the round, rounded to 16 bits; what rounding left out stays
    at the site and is added to its next change (`docs/METHOD.md`, section on averaging)."""
    augment: bool = True
    noise: float = Field(default=0.0, ge=0, le=1)
    """σ of Gaussian noise that is added to every training image, whose values are in [0, 1]; they
    are clipped to that range again."""

    warm_start: bool = True
    """Whether a phase 1 with α = 0 comes first. Without it the discrepancy terms are trained from
    the first round on, and α should be `fixed` or a `ramp`: the target of `dual` would be that of
    an untrained network, which any network is soon below."""
    phase_2_start: Literal["best", "last"] = "last"
    """What phase 2 begins with. `last`: weights and optimisers as they are; only α starts. `best`:
    the weights of phase 1 that validated best, as the paper has it, and fresh optimisers."""
    method: MethodPlan = MethodPlan()
    alpha: AlphaPlan = AlphaPlan()
    exchange: ExchangePlan = ExchangePlan()
    defence: DefencePlan = DefencePlan()
    privacy: PrivacyPlan | None = None
    """Differential privacy; `None`: there is none, and no ε is printed anywhere."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    phantoms: bool = False
    """Whether sites train on built-in phantoms. A site refuses a plan that says otherwise than its
    data."""

    quorum: Count | None = None
    """Sites whose weights must enter a round; `None`: all up to three sites, else two thirds."""
    attempts: Count = 3
    """How often a round under quorum is tried before the run stops."""
    round_deadline_seconds: Seconds = 3600.0
    min_count: Count = 3
    """A site reports aggregates over at least this many images; below it, it reports none."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "preset" not in values:
            return values
        said = {key: value for key, value in values.items() if key != "preset"}
        for key, filled in preset(str(values["preset"])).items():
            own = said.get(key, filled)
            # Anything but a table where there should be one is left for its own check to refuse.
            both = isinstance(own, dict) and isinstance(filled, dict)
            said[key] = filled | own if both else own
        return said

    @model_validator(mode="before")
    @classmethod
    def _keep_batch_norm_for_fedbn(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("strategy") == "fedbn":
            return {"norm": "batch"} | values
        return values

    @model_validator(mode="after")
    def _check(self) -> RunPlan:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError(f"sites names one site twice: {', '.join(self.sites)}")
        if self.quorum is not None and self.sites and self.quorum > len(self.sites):
            raise ValueError(
                f"quorum = {self.quorum} can never be met by {len(self.sites)} site(s); lower it"
            )
        _check_known("fdfed.losses", self.effective_loss, LOSS_NAMES)
        _check_known("fdfed.strategies", self.strategy, STRATEGY_NAMES)
        if self.precision == "auto" and self.exchange.blinding == "deterministic":
            raise ValueError(
                "precision = auto follows the clock, and exchange.blinding = deterministic is for "
                "runs that repeat bit for bit; use precision = fp32 or amp"
            )
        if self.exchange.max_staleness and self.exchange.blinding == "deterministic":
            raise ValueError(
                "exchange.max_staleness above 0 uses the newest reply, which follows the clock, "
                "and exchange.blinding = deterministic is for runs that repeat bit for bit; use "
                "max_staleness = 0, or a simulation, whose replies are late by delay_steps alone"
            )
        floor = max(self.exchange.min_images, self.exchange.min_patients)
        if self.effective_loss == "fd+exch" and self.batch_size < floor:
            raise ValueError(
                f"batch_size = {self.batch_size} is below exchange.min_images = "
                f"{self.exchange.min_images} or min_patients = {self.exchange.min_patients}, so no "
                "prototype would ever be sent; raise the batch size, or choose loss = fd"
            )
        if self.strategy in ("local", "pooled") and self.effective_loss == "fd+exch":
            raise ValueError(
                f"strategy = {self.strategy} has no peers to exchange with, so loss = fd+exch has "
                "no meaning there; use loss = fd or seg"
            )
        problems = tuple(self.defence.problems(self))
        problems += () if self.privacy is None else tuple(self.privacy.problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _check_aggregation(self) -> RunPlan:
        if self.aggregation == "plain":
            return self
        if self.strategy in ("local", "pooled"):
            raise ValueError(
                f"strategy = {self.strategy} sends no weights, so aggregation = "
                f"{self.aggregation} has nothing to protect; use aggregation = plain"
            )
        if self.aggregation == "masked" and len(self.sites) == 1:
            raise ValueError(
                f"aggregation = {self.aggregation} with the one site {self.sites[0]}: the sum is "
                "that site's update. Name three sites or more, or use aggregation = plain"
            )
        return self

    @model_validator(mode="after")
    def _check_update_precision(self) -> RunPlan:
        if self.update_precision == "full":
            return self
        given = f"update_precision = {self.update_precision}"
        if self.strategy in ("local", "pooled"):
            raise ValueError(
                f"strategy = {self.strategy} sends no weights, so {given} has no meaning; leave it "
                "out"
            )
        if self.aggregation == "masked":
            raise ValueError(
                f"{given} saves nothing with aggregation = masked, where every number travels as "
                "one of 64 bits; leave it out, or use aggregation = plain or robust"
            )
        if self.precision == "fp64":
            raise ValueError(
                f"{given} rounds what precision = fp64 is there to keep; leave one of them out"
            )
        return self

    @property
    def effective_loss(self) -> str:
        """The loss that is trained."""
        if self.loss is not None:
            return self.loss
        return "fd+exch" if self.strategy == "fdfed" else "seg"

    @property
    def has_discrepancy(self) -> bool:
        """Whether the loss has the terms that α weighs, and with them a phase 2."""
        return self.effective_loss in DISCREPANCY_LOSSES

    @property
    def swaps_batches(self) -> bool:
        """Whether every step of phase 2 swaps prototypes with the hub. With differential privacy
        they leave once a round instead, with the weights."""
        return self.effective_loss == "fd+exch" and self.privacy is None

    @property
    def auxiliary_loss(self) -> str | None:
        """The loss with heads of its own that is added to L_seg in every round, if there is one."""
        return None if self.effective_loss in ("seg", *DISCREPANCY_LOSSES) else self.effective_loss

    @property
    def phase_1_rounds(self) -> int:
        """Rounds with α = 0: all of them where the loss has no discrepancy terms; none without the
        warm start; else `warm_rounds` of them."""
        if not self.has_discrepancy:
            return self.rounds
        return warm_rounds(self.rounds) if self.warm_start else 0

    def phase(self, server_round: int) -> Literal[1, 2]:
        """1 while only L_seg is trained, 2 afterwards. Rounds count from 1."""
        return 1 if server_round <= self.phase_1_rounds else 2

    def learning_rate_in(self, server_round: int) -> float:
        """The learning rate of a round, counted from 1; behind the last round that of the last."""
        if self.learning_rate_schedule == "constant":
            return self.learning_rate
        done = (min(server_round, self.rounds) - 1) / self.rounds
        return self.learning_rate * float((1 - done) ** POLY_POWER)

    @property
    def input_size(self) -> int:
        """Side of the squares that the network trains on, in pixels."""
        return self.crop or self.size

    def is_evaluated(self, server_round: int) -> bool:
        """Whether the model of that round is scored on the validation parts. The last round of
        each phase always is, since what a phase ends with may be its best."""
        ends = (self.phase_1_rounds, self.rounds)
        return server_round % self.evaluate_every == 0 or server_round in ends

    def quorum_of(self, sites: int) -> int:
        """Sites that must enter a round: all up to three, else two thirds (rounded up)."""
        if self.quorum is not None:
            return self.quorum
        return sites if sites <= 3 else math.ceil(2 * sites / 3)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces. Equal plans give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> RunPlan:
        """The plan in `text`, which may come from a stranger.

        Raises:
            InvalidInput: if it is not a plan of this version.
        """
        return parse(cls, strict_json.loads(text, source="the run plan"), source="the run plan")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def warm_rounds(rounds: int) -> int:
    """100/175 of the rounds of a run, rounded up, but at least one, and all but one at most."""
    return max(1, min(rounds - 1, math.ceil(rounds * PHASE_1_SHARE)))


def _check_known(group: plugins.Group, name: str, built_in: tuple[str, ...]) -> None:
    if name not in built_in and name not in plugins.installed(group):
        raise ValueError(plugins.unknown(group, name, built_in=built_in))
