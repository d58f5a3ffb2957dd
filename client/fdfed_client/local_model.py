"""What a site holds for a plan: images, network, exchange, and what stays with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from fdfed.config import RunPlan
from fdfed.data import SplitCounts
from fdfed.exchange import BlindingSecret, Exchange
from fdfed.losses import AuxiliaryLoss
from fdfed.networks import SegmentationNetwork
from fdfed.privacy.randomness import Randomness
from fdfed.wire import Part, TrainInstruction

if TYPE_CHECKING:
    from fdfed_client.private_training import PrivateTraining


class Images(Protocol):
    """What a site needs of its images; `fdfed.data.SiteData` is one."""

    @property
    def phantoms(self) -> bool:
        """Whether they are built-in phantoms."""
        ...

    @property
    def counts(self) -> SplitCounts:
        """Images by part."""
        ...

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        """The batch of that step of the whole run."""
        ...

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        """Whose each image of that batch is."""
        ...

    def evaluation_batches(self, part: Part) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        """Image, mask and names, in a fixed order, without augmentation."""
        ...

    @property
    def patients_known(self) -> bool:
        """Whether the site says whose its images are."""
        ...

    def patients_of(self, part: Part) -> Mapping[str, str]:
        """Whose each image of a part is, by the image's name."""
        ...


OpenImages = Callable[[RunPlan], Images]
"""Opens the site's images as a plan wants them; raises `DataError` with all findings."""

OpenExchange = Callable[[RunPlan], Exchange]
"""Opens the stream to the hub, with the patience that a plan asks for."""


SecretOf = Callable[[TrainInstruction], BlindingSecret]
"""The blinding secret of a round, from its instruction; raises `CryptoError`."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What a plan needs at the site, made once for all its rounds."""

    plan: RunPlan
    local_plan: RunPlan
    """The plan with what this site chose where the plan leaves it a choice, and its own floor."""
    images: Images
    exchange: Exchange | None
    network: SegmentationNetwork
    shared: tuple[str, ...]
    local: tuple[str, ...]
    initial_local: Mapping[str, NDArray[Any]]
    auxiliary: AuxiliaryLoss | None
    """Its heads stay at the site, and serve training alone."""
    initial_heads: Mapping[str, Tensor]
    private: PrivateTraining | None = None
    """Trains in place of the usual round where the plan has differential privacy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyAtSite:
    """What differential privacy rests on at this site, whatever the plan."""

    ledger: Path
    """File of all that was ever released."""
    max_epsilon: float | None = None
    """The site's own bound on ε; `None` leaves it to the plan."""
    randomness: Randomness | None = None
    """`None` is the system's secure source; anything else is for tests."""


def copies(module: nn.Module | None) -> dict[str, Tensor]:
    """A module's tensors on the CPU, by name; none without a module."""
    state = {} if module is None else module.state_dict()
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
