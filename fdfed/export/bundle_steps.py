"""What a MONAI bundle of ours does before and after the network, as its configuration names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai.inferers.inferer import Inferer
from torch import Tensor

from fdfed.data import image_size, load_image
from fdfed.errors import InvalidInput
from fdfed.evaluation.prediction import own_size_probabilities, save_mask
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.networks import SegmentationNetwork


class ReadImage:
    """From `{"path": file}` to that with the image as the network wants it, and its own size.

    MONAI's readers are not used: they know neither the sizes nor the grey of this project
    (`fdfed.data.load_image`).
    """

    def __init__(self, *, size: int, in_channels: int, crop: int | None = None) -> None:
        """See `ModelHeader`."""
        self._size, self._in_channels, self._crop = size, in_channels, crop

    def __call__(self, item: Mapping[str, str]) -> dict[str, Any]:
        path = Path(item["path"])
        height, width = image_size(path)
        image = load_image(path, size=self._size, in_channels=self._in_channels, crop=self._crop)
        return {"path": str(path), "image": image, "height": height, "width": width}


class WholeImage(Inferer):
    """Windows of a size that the network takes, over an image of any size."""

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *_: Any, **__: Any) -> Tensor:
        """The logits (batch, 1, height, width) of images (batch, channels, height, width)."""
        if not isinstance(network, SegmentationNetwork):
            raise InvalidInput(
                f"this inferer drives a network of fdfed, and got a {type(network).__name__}; "
                "use the network of the bundle's own configuration"
            )
        return whole_image_logits(network, inputs)


class WriteMask:
    """Writes the mask of one image, at the image's own size, to `folder/<stem>.png`."""

    def __init__(self, *, folder: str, threshold: float) -> None:
        """
        Args:
            threshold: probability from which a pixel is foreground.
        """
        self._folder, self._threshold = Path(folder), threshold

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        height, width = int(item["height"]), int(item["width"])
        probability = own_size_probabilities(item["pred"][None], height=height, width=width)
        path = self._folder / f"{Path(item['path']).stem}.png"
        save_mask(path, probability >= self._threshold)
        return {**item, "mask": str(path)}
