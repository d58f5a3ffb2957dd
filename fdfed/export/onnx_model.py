"""The network as one ONNX file, which holds its header and is compared before it is kept."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import replacing
from fdfed.networks import SegmentationNetwork
from fdfed.training.model_file import ModelHeader

TOLERANCE: Final = 1e-3
"""Largest difference from the network's own logits, as a share of their largest magnitude (at
least 1). ONNX Runtime sums in another order than torch, in fp32."""

_METADATA: Final = "fdfed"
_MISSING: Final = (
    "the packages onnx, onnxscript and onnxruntime are needed for this; install fdfed with its "
    "optional extra: pip install 'fdfed[export]'"
)


def write_onnx(path: Path, network: SegmentationNetwork, header: ModelHeader) -> float:
    """Writes `network` to `path`, and returns how far ONNX Runtime's logits are from its own.

    Input `image`: float32 (batch, in_channels, height, width) in [0, 1], as
    `fdfed.data.load_image` makes it; output `logits`: (batch, 1, height, width), before the
    sigmoid. The batch is open, and so are height and width where the network takes any; they stay
    multiples of its `size_multiple`. The metadata entry `fdfed` is the header as JSON.

    The difference is relative to the largest logit, and is measured on batches and sizes that were
    not traced.

    Raises:
        InvalidInput: if a package is missing, the network cannot be exported, or ONNX Runtime's
            logits differ by more than `TOLERANCE`; nothing is written then.
    """
    try:
        import onnxruntime  # noqa: F401, PLC0415  (an optional extra)
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as err:
        raise InvalidInput(f"{_MISSING} ({err.name} is missing)") from err
    network = network.eval()
    side = header.crop or header.size
    with replacing(path) as part:
        _export(network, _image(network, 2, side, side), part, header)
        difference = _difference(network, part, side)
        if not difference <= TOLERANCE:
            raise InvalidInput(
                f"ONNX Runtime's logits of {header.network} differ from the network's own by "
                f"{difference:.2g} of the largest, more than {TOLERANCE:g}; nothing was written. "
                "Use the model file itself with `fdfed predict`"
            )
    return difference


def _export(network: SegmentationNetwork, image: Tensor, path: Path, header: ModelHeader) -> None:
    open_sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if network.fixed_size is None:
        open_sizes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (image,),
                dynamo=True,
                dynamic_shapes={"image": open_sizes},
                input_names=["image"],
                output_names=["logits"],
                verbose=False,
            )
            if program is None:
                raise RuntimeError("torch made no program")
            program.model.metadata_props[_METADATA] = header.model_dump_json()
            program.save(path, external_data=False)
    except Exception as err:  # torch raises many types where it cannot trace or translate
        raise InvalidInput(
            f"{header.network} cannot be exported to ONNX: {_first_line(err)}. Its Python code "
            "must be one that torch.export can trace (docs/METHOD.md); `fdfed predict` needs no "
            "export"
        ) from err


def _difference(network: SegmentationNetwork, path: Path, side: int) -> float:
    """The largest relative difference of logits, over batches and sizes that were not traced."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = [_image(network, 1, side, side), _image(network, 3, side, side)]
    if network.fixed_size is None:
        images.append(_image(network, 1, 2 * side, side + network.size_multiple))
    largest = 0.0
    for image in images:
        with torch.inference_mode():
            own = network(image).numpy()
        (theirs,) = session.run(None, {"image": image.numpy()})
        largest = max(largest, _relative(own, theirs))
    return largest


def _relative(own: Float[np.ndarray, "*shape"], theirs: Float[np.ndarray, "*shape"]) -> float:
    return float(np.abs(own - theirs).max() / max(1.0, float(np.abs(own).max())))


def _image(network: SegmentationNetwork, batch: int, height: int, width: int) -> Tensor:
    rng = torch.Generator().manual_seed(height * width + batch)
    return torch.rand(batch, network.in_channels, height, width, generator=rng)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its own workings, which nobody here can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(err: Exception) -> str:
    cause = err.__cause__ or err
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else 'no reason given'}"
