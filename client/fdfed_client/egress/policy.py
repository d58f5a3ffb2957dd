"""What the hospital allows, whatever a coordinator asks: the `[policy]` table of `site.toml`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from fdfed.config import Frozen, RunPlan
from fdfed.errors import RefusedByPolicy

MessageKind = Literal[
    "prepared",
    "in-force",
    "offered",
    "is-ready",
    "trained",
    "masked",
    "evaluated",
    "prototypes",
]

MESSAGE_KINDS: Final[tuple[MessageKind, ...]] = (
    "prepared",
    "in-force",
    "offered",
    "is-ready",
    "trained",
    "masked",
    "evaluated",
    "prototypes",
)
"""Everything that a site ever says, apart from its calls to join, beat, fetch and leave."""


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PolicyRefusal(RefusedByPolicy):
    """A rule of the site forbids it. The coordinator is told the rule's name and nothing else."""

    def __init__(self, rule: str, text: str) -> None:
        self.rule = rule
        super().__init__(text)


class Policy(Frozen):
    """The site's rules. Those about the plan are checked before anything is trained for it; the
    others when something is about to leave."""

    messages: tuple[MessageKind, ...] = MESSAGE_KINDS
    """Kinds of message that may leave. Without `prototypes` no plan with `fd+exch` is accepted."""
    require_signed_plan: bool = True
    """Train for a plan only if the key that the roster names has signed it."""
    require_approval: bool = False
    """Train for a plan only when a person here has approved it; so does `--approve`."""
    approved_plans: tuple[Hash, ...] | None = None
    """Hashes of the plans that are approved beforehand; where the list is given, no other is."""
    require_masked_aggregation: bool = False
    """Weights leave only masked, so that the coordinator learns their sum over sites alone."""
    allowed_networks: tuple[str, ...] | None = None
    """`None`: every network that is installed here."""
    allowed_losses: tuple[str, ...] | None = None
    max_rounds: int | None = Field(default=None, ge=1)
    """Most rounds of a plan: each one tells the coordinator a little more."""
    max_update_bytes: int = Field(default=2**30, ge=1)
    """Largest single message, in bytes."""
    max_bytes_per_round: int = Field(default=4 * 2**30, ge=1)
    """Of all messages and frames of one attempt at a round."""
    max_frames_per_second: int = Field(default=1000, ge=1)
    """Of the exchange. An honest site sends one frame a training step."""

    max_epsilon: float | None = Field(default=None, gt=0)
    """The site's own privacy budget, over all its runs: a plan without differential privacy of the
    weights is refused, and a plan's budget counts only up to this. `None`: the plan decides."""

    def check_plan(self, plan: RunPlan) -> None:
        """Whether this site takes part in such a plan.

        Raises:
            PolicyRefusal: naming the rule, what the plan asks, and what is allowed.
        """
        _among("allowed_networks", "network", plan.network, self.allowed_networks)
        _among("allowed_losses", "loss", plan.effective_loss, self.allowed_losses)
        if plan.effective_loss == "fd+exch" and "prototypes" not in self.messages:
            raise PolicyRefusal(
                "messages",
                "the plan exchanges prototypes (loss = fd+exch), and messages in [policy] of "
                "site.toml does not list prototypes; allow them, or ask for a plan with another "
                "loss",
            )
        if self.require_masked_aggregation and plan.aggregation != "masked":
            raise PolicyRefusal(
                "require_masked_aggregation",
                f"the plan has aggregation = {plan.aggregation}, and require_masked_aggregation is "
                "on in [policy] of site.toml; ask for a plan with aggregation = masked",
            )
        self._check_privacy(plan)
        if self.max_rounds is not None and plan.rounds > self.max_rounds:
            raise PolicyRefusal(
                "max_rounds",
                f"the plan has {plan.rounds} rounds, and max_rounds in [policy] of site.toml is "
                f"{self.max_rounds}; ask for a shorter plan, or raise it",
            )

    def _check_privacy(self, plan: RunPlan) -> None:
        if self.max_epsilon is None:
            return
        if plan.privacy is None or plan.privacy.weights == "unprotected":
            raise PolicyRefusal(
                "max_epsilon",
                "max_epsilon in [policy] of site.toml asks for differential privacy, and the plan "
                "lets weights leave without noise; ask for a plan with [run.privacy.weights], or "
                "remove max_epsilon",
            )


RULES: Final = frozenset(Policy.model_fields) | {"unknown_kind", "schema", "min_count", "site"}
"""Names that the coordinator may be told."""


def _among(rule: str, what: str, value: str, allowed: tuple[str, ...] | None) -> None:
    if allowed is not None and value not in allowed:
        raise PolicyRefusal(
            rule,
            f"the plan's {what} is {value}, and {rule} in [policy] of site.toml lists "
            f"{', '.join(allowed) or 'none'}; ask for another plan, or add it",
        )
