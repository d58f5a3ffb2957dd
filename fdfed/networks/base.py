"""What every network offers: logits, and the named feature maps on which the method acts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from fdfed.errors import InvalidInput

Norm = Literal["batch", "group"]
Taps = dict[str, Tensor]
"""Feature maps `(batch, C_l, h_l, w_l)` by tap name, in the order of `tap_names`."""


@runtime_checkable
class TapSink(Protocol):
    """Who is handed each feature map when it has been computed; a dictionary is one."""

    def __setitem__(self, name: str, features: Tensor, /) -> None:
        """Takes the map `(batch, C_l, h_l, w_l)` of a tap."""
        ...


class Tap(NamedTuple):
    """A feature map: its channels, and the input's side over its own."""

    channels: int
    stride: int


class SegmentationNetwork(nn.Module, ABC):
    """A network with one output channel of logits and named feature maps, its taps.

    Taps are numbered as in the paper: `Enc1` … `Enck` from full resolution down, `Bot`, and `Dec1`
    … from deep to shallow. No layer works in place, so a tap holds at the loss what it held when
    it was computed, and gradient hooks (per-sample gradients) may be attached to any layer.

    Weights are drawn from torch's global generator in the constructor, and nowhere else: fork and
    seed it around the call to choose them. Dropout, where a network has it, draws at each training
    step.
    """

    paper_width: ClassVar[int]
    """Channels of the first level in the publication."""
    has_batch_norm: ClassVar[bool] = True
    """Whether `norm = batch` puts BatchNorm into the network; False where it has LayerNorm only."""

    def __init__(
        self,
        *,
        in_channels: int,
        norm: Norm,
        taps: dict[str, Tap],
        size_multiple: int,
        size: int | None,
        fixed_size: bool = False,
    ) -> None:
        """See the class.

        Args:
            taps: channels and stride by name, in order.
            size_multiple: height and width of an image must be multiples of this, in pixels.
            size: side of the images to come, in pixels, checked here; None where it is open.
            fixed_size: whether the weights fit images of `size` only.

        Raises:
            InvalidInput: if `size` is no multiple of `size_multiple`.
        """
        super().__init__()
        if size is not None:
            _check_multiple(type(self).__name__, size, size_multiple)
        self.in_channels = in_channels
        self.norm = norm
        self.tap_channels = {name: tap.channels for name, tap in taps.items()}
        """C_l by tap, in order."""
        self.tap_strides = {name: tap.stride for name, tap in taps.items()}
        """Side of the input / side of the tap, by tap."""
        self.size_multiple = size_multiple
        self.fixed_size = size if fixed_size else None

    @property
    def tap_names(self) -> tuple[str, ...]:
        """The taps' names, encoder first."""
        return tuple(self.tap_channels)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The logits of the foreground, one for each pixel of `image`."""
        return self.forward_with_taps(image)[0]

    def forward_with_taps(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch 1 height width"], Taps]:
        """The logits, and the feature map `(batch, C_l, h_l, w_l)` of each tap in order.

        Raises:
            InvalidInput: if the image is not of the shape that this network was made for.
        """
        taps: Taps = {}
        return self.forward_into(image, taps), taps

    def forward_into(
        self, image: Float[Tensor, "batch channels height width"], taps: TapSink
    ) -> Float[Tensor, "batch 1 height width"]:
        """The logits; `taps` is handed the map of each tap as soon as there is one.

        What is computed of a map then and there comes before the layers behind it, and so after
        them in the backward pass, which needs no more memory for it than the map's own gradient.
        What is computed of all maps at the end holds a gradient of each at once.

        Raises:
            InvalidInput: if the image is not of the shape that this network was made for.
        """
        self._check(image)
        return self._forward(image, taps)

    @abstractmethod
    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        """As `forward_into`, for an image whose shape has been checked."""

    def _check(self, image: Tensor) -> None:
        shape, name = tuple(image.shape), type(self).__name__
        if image.ndim != 4 or shape[1] != self.in_channels:
            raise InvalidInput(
                f"{name} got an image of shape {shape}; it was made for (batch, "
                f"{self.in_channels}, height, width). Set in_channels to the channels of the images"
            )
        if self.fixed_size is not None and shape[2:] != (self.fixed_size, self.fixed_size):
            raise InvalidInput(
                f"{name} got an image of {shape[2]} x {shape[3]} pixels, but its weights fit "
                f"{self.fixed_size} x {self.fixed_size} only; resize the image, or make the "
                f"network with another size"
            )
        for side in shape[2:]:
            _check_multiple(name, side, self.size_multiple)
        cells = image.shape[0] * shape[2] * shape[3] // max(self.tap_strides.values()) ** 2
        if self.training and self.has_batch_norm and self.norm == "batch" and cells < 2:
            raise InvalidInput(
                f"{name} got a training batch of one image of {shape[2]} x {shape[3]} pixels, "
                "whose bottleneck is a single cell, and BatchNorm has no variance over one value; "
                "use a larger batch_size or size, or norm = group"
            )


def symmetric_taps(levels: Sequence[int], bottom: int) -> dict[str, Tap]:
    """The taps of a network that halves the image once a level, and doubles it back.

    Args:
        levels: channels of the encoders from full resolution down; decoders mirror them.
        bottom: channels of the bottleneck.
    """
    encoders = {f"Enc{k}": Tap(c, 2 ** (k - 1)) for k, c in enumerate(levels, start=1)}
    decoders = {
        f"Dec{k}": Tap(c, 2 ** (len(levels) - k)) for k, c in enumerate(reversed(levels), start=1)
    }
    return encoders | {"Bot": Tap(bottom, 2 ** len(levels))} | decoders


def _check_multiple(name: str, side: int, multiple: int) -> None:
    """Nothing, if `side` is a positive multiple of `multiple`.

    Raises:
        InvalidInput: otherwise, with the nearest sides that would do.
    """
    if side > 0 and side % multiple == 0:
        return
    raise InvalidInput(
        f"{name} got a side of {side} pixels; it must be a multiple of {multiple}, because the "
        f"network halves it and joins the halves again. Use {_nearest(side, multiple)}"
    )


def check_width(name: str, width: int, *, multiple: int) -> None:
    """Nothing, if `width` is a positive multiple of `multiple`.

    Raises:
        InvalidInput: otherwise, with the nearest widths that would do.
    """
    if width > 0 and width % multiple == 0:
        return
    raise InvalidInput(
        f"{name} got width = {width}; it must be a multiple of {multiple}, because some layers "
        f"have 1/{multiple} of its channels. Use {_nearest(width, multiple)}"
    )


def _nearest(value: int, multiple: int) -> str:
    below = max(0, value // multiple * multiple)
    return f"{below} or {below + multiple}" if below else f"{multiple}"
