"""How a site gets ready for a plan: its images, network, exchange, and what it chooses itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from fdfed.config import RunPlan
from fdfed.errors import RefusedByPolicy
from fdfed.exchange import Exchange
from fdfed.networks import SegmentationNetwork
from fdfed.training.fastest import USUAL, fastest_setting, lay_out_
from fdfed.training.initialise import initial_auxiliary, initial_network
from fdfed.training.sharing import shared_names, take_tensors
from fdfed_client.local_model import (
    Images,
    LocalModel,
    OpenExchange,
    OpenImages,
    PrivacyAtSite,
    copies,
)

if TYPE_CHECKING:
    from fdfed_client.private_training import PrivateTraining

log = logging.getLogger(__name__)


class PlanOpening:
    """Makes what a site holds for a plan; the arguments are those of `Site`."""

    def __init__(
        self,
        name: str,
        open_images: OpenImages,
        *,
        min_patients: int,
        device: torch.device,
        open_exchange: OpenExchange | None,
        privacy: PrivacyAtSite | None,
    ) -> None:
        self._name = name
        self._open_images = open_images
        self._min_patients = min_patients
        self._device = device
        self._open_exchange = open_exchange
        self._privacy = privacy

    def images_of(self, plan: RunPlan) -> Images:
        """The site's images as the plan wants them.

        Raises:
            DataError: with all findings, if they cannot be used.
            RefusedByPolicy: if the plan is for phantoms and these are not, or the reverse.
        """
        images = self._open_images(plan)
        if images.phantoms != plan.phantoms:
            kinds = {True: "phantoms", False: "real images"}
            raise RefusedByPolicy(
                f"the run plan is for {kinds[plan.phantoms]}, but {self._name} holds "
                f"{kinds[images.phantoms]}; phantoms never take part in a real run"
            )
        return images

    def model_of(self, plan: RunPlan, images: Images) -> LocalModel:
        """Network, exchange and all else that the plan needs here.

        Raises:
            RefusedByPolicy: if the plan exchanges prototypes or wants privacy, and the site has
                nothing to do it with.
        """
        network = initial_network(plan).to(self._device)
        local_plan = self._choose_(plan, network, images)
        shared = shared_names(network, plan.strategy)
        local = tuple(name for name in network.state_dict() if name not in set(shared))
        auxiliary = initial_auxiliary(plan, network)
        return LocalModel(
            plan=plan,
            local_plan=local_plan,
            images=images,
            exchange=self._exchange_of(plan),
            network=network,
            shared=shared,
            local=local,
            initial_local=take_tensors(network, local),
            auxiliary=auxiliary,
            initial_heads=copies(auxiliary),
            private=self._private_training(plan, network, images),
        )

    def _private_training(
        self, plan: RunPlan, network: SegmentationNetwork, images: Images
    ) -> PrivateTraining | None:
        own = self._privacy
        if plan.privacy is None:
            return None
        if own is None:
            raise RefusedByPolicy(f"{self._name} keeps no privacy ledger")
        # Opacus takes seconds to import, and most runs do not need it.
        from fdfed_client.private_training import PrivateTraining  # noqa: PLC0415

        least = max(self._min_patients, plan.exchange.min_patients, plan.exchange.min_images)
        return PrivateTraining(self._name, plan, network, images, own=own, min_units=least)

    def _choose_(self, plan: RunPlan, network: SegmentationNetwork, images: Images) -> RunPlan:
        """The plan with the precision that is used here; gives the network its memory layout."""
        # Most convolutions run 1.1 to 1.9 times as fast on channels-last memory.
        setting = USUAL
        if plan.precision == "auto":
            image, mask = (t.to(self._device) for t in images.training_batch(0))
            choice = fastest_setting(plan, network, image, mask)
            log.info("%s trains in %s", self._name, choice, extra={"site": self._name})
            setting = choice.setting
            plan = plan.model_copy(update={"precision": setting.precision})
        lay_out_(network, channels_last=setting.channels_last)
        return self._with_own_floor(plan)

    def _with_own_floor(self, plan: RunPlan) -> RunPlan:
        """The plan, with the site's own minimum of patients where it is the higher one."""
        patients = max(self._min_patients, plan.exchange.min_patients)
        exchange = plan.exchange.model_copy(update={"min_patients": patients})
        return plan.model_copy(update={"exchange": exchange})

    def _exchange_of(self, plan: RunPlan) -> Exchange | None:
        if not plan.swaps_batches:
            return None
        if self._open_exchange is None:
            raise RefusedByPolicy(f"the plan exchanges prototypes; {self._name} has no exchange")
        return self._open_exchange(plan)
