"""Networks by name."""

from __future__ import annotations

from typing import Final, Protocol, cast, runtime_checkable

from fdfed import plugins
from fdfed.errors import InvalidInput
from fdfed.networks.attention_unet import AttentionUNet
from fdfed.networks.base import Norm, SegmentationNetwork
from fdfed.networks.cmunet import CMUNet
from fdfed.networks.nucleisegnet import NucleiSegNet
from fdfed.networks.swin_unet import SwinUNet
from fdfed.networks.transunet import TransUNet
from fdfed.networks.unet import UNet


@runtime_checkable
class _NetworkClass(Protocol):
    paper_width: int

    def __call__(
        self, *, in_channels: int, width: int, norm: Norm, size: int | None
    ) -> SegmentationNetwork: ...


_NETWORKS: Final[dict[str, _NetworkClass]] = {
    "unet": cast(_NetworkClass, UNet),
    "attention-unet": cast(_NetworkClass, AttentionUNet),
    "nucleisegnet": cast(_NetworkClass, NucleiSegNet),
    "cmunet": cast(_NetworkClass, CMUNet),
    "transunet": cast(_NetworkClass, TransUNet),
    "swin-unet": cast(_NetworkClass, SwinUNet),
}

NETWORK_NAMES: Final = tuple(_NETWORKS)
"""What `create_network` knows beside the networks of installed packages."""


def create_network(
    name: str,
    *,
    in_channels: int,
    width: int | None = None,
    norm: str = "batch",
    size: int | None = None,
) -> SegmentationNetwork:
    """The network called `name`, with weights drawn from torch's global generator.

    Args:
        in_channels: channels of an image.
        width: channels of the first level; None is the publication's.
        norm: `batch`, as published, or `group`, whose output for one image does not depend on
            the others in the batch (needed for per-sample privacy and for exact lockstep).
        size: side of the square images in pixels. Networks whose weights depend on it are made
            for it (None is the publication's); the others check that it can be halved often
            enough.

    Raises:
        InvalidInput: if the name is unknown or a value does not fit the network.
    """
    if norm not in ("batch", "group"):
        raise InvalidInput(f"norm = {norm} is not known; use batch or group")
    if in_channels < 1 or (width is not None and width < 1):
        raise InvalidInput(
            f"in_channels = {in_channels} and width = {width} count channels; each must be at "
            "least 1"
        )
    network_class = _class_of(name)
    return network_class(
        in_channels=in_channels,
        width=network_class.paper_width if width is None else width,
        norm=cast(Norm, norm),
        size=size,
    )


def _class_of(name: str) -> _NetworkClass:
    if name in _NETWORKS:
        return _NETWORKS[name]
    loaded = plugins.load(
        "fdfed.networks",
        name,
        SegmentationNetwork,  # type: ignore[type-abstract]  # a subclass of it is asked for
        built_in=NETWORK_NAMES,
    )
    if not hasattr(loaded, "paper_width"):
        raise InvalidInput(
            f"{loaded.__name__}, which is offered as the network {name}, has no paper_width; give "
            "it the channels of its first level"
        )
    return cast(_NetworkClass, loaded)
