"""A trained model as one safetensors file that says by itself how to be used.

The weights are fp32 tensors under their `state_dict` names (counters keep int64); the metadata
entry `fdfed` is a `ModelHeader` as JSON. Nothing in the file is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import fdfed
from fdfed.config import Frozen, RunPlan, SiteName, parse
from fdfed.errors import InvalidInput
from fdfed.files import strict_json
from fdfed.files.atomic_file import replacing
from fdfed.networks import SegmentationNetwork, create_network

FORMAT: Final = 1
"""Version of the header. A file of a later one is refused, never guessed at."""

_KEY: Final = "fdfed"
_DTYPES: Final = frozenset({torch.float32, torch.int64})

Fraction = Annotated[float, Field(ge=0, le=1)]


class SiteDice(Frozen):
    """The model's Dice at one site: an aggregate over its test images, as fractions."""

    n: int = Field(ge=1)
    mean: Fraction
    sd: float = Field(ge=0)


class ModelHeader(Frozen):
    """What `predict` needs beside the weights, and where they come from."""

    format: int = Field(default=FORMAT, ge=1, le=FORMAT)
    fdfed_version: str = fdfed.__version__
    network: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    width: int | None = Field(default=None, ge=1, le=4096)
    """Channels of the first level; `None` is the paper's."""
    norm: Literal["batch", "group"]
    in_channels: Literal[1, 3]
    size: int = Field(ge=16, le=4096)
    """Side of the square that images are resized to, in pixels; unused with `crop`."""
    crop: int | None = Field(default=None, ge=16, le=4096)
    """Side of the squares it was trained on at native resolution, in pixels: it segments images
    of their own size, enlarged where a side is shorter than this."""
    taps: tuple[str, ...]
    alpha: dict[str, float] = Field(default_factory=dict)
    """α of each tap at the end of training."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which a pixel is foreground."""
    site: SiteName | None = None
    """The site whose own model this is; `None`: the federation's."""
    round: int | None = Field(default=None, ge=1)
    """The round that made the weights."""
    phantoms: bool = False
    """Whether it was trained on built-in phantoms, and so means nothing on real images."""
    dice: dict[SiteName, SiteDice] = Field(default_factory=dict)

    @classmethod
    def of(cls, plan: RunPlan, taps: Sequence[str], **made: Any) -> ModelHeader:
        """The header of a network that the plan describes.

        Args:
            taps: the network's, by name.
            made: what came of training it: `alpha`, `site`, `round`, `dice`.
        """
        described = {
            name: getattr(plan, name)
            for name in ("network", "width", "norm", "in_channels", "size", "crop", "phantoms")
        }
        return cls(**described, taps=tuple(taps), **made)


def save_model(path: Path, state_dict: Mapping[str, Tensor], header: ModelHeader) -> None:
    """Writes the weights and their header to `path`, atomically.

    Floating-point weights are stored as fp32, whatever they were trained in; counters as int64.
    """
    tensors = {name: _on_disk(tensor) for name, tensor in state_dict.items()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={_KEY: header.model_dump_json()})


def _on_disk(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else torch.int64
    # The copy parts tensors that share memory, which safetensors refuses to write.
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def read_header(path: Path) -> ModelHeader:
    """The header of a model file, without its weights.

    Raises:
        InvalidInput: if the file is missing, cut off, of another program or of a later format.
    """
    return _read(path)[0]


def load_model(path: Path, device: torch.device) -> tuple[SegmentationNetwork, ModelHeader]:
    """The network of a model file, in evaluation mode on `device`, and the header.

    The header is a stranger's: the network it describes is first laid out without memory, and
    built only if its tensors are those that the file holds.

    Raises:
        InvalidInput: as for `read_header`, or if weights and header do not belong together.
    """
    header, tensors = _read(path, with_tensors=True)
    with torch.device("meta"):
        try:
            plan = _network(header)
        except InvalidInput as err:
            raise InvalidInput(f"the network of {path} cannot be made here: {err}") from err
    _check_fit(plan, header, tensors, path)
    # Initial weights are overwritten below; drawing them must not move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        network = _network(header)
    network.load_state_dict(tensors)
    return network.to(device).eval(), header


def _network(header: ModelHeader) -> SegmentationNetwork:
    return create_network(
        header.network,
        in_channels=header.in_channels,
        width=header.width,
        norm=header.norm,
        size=header.crop or header.size,
    )


def _read(path: Path, *, with_tensors: bool = False) -> tuple[ModelHeader, dict[str, Tensor]]:
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file; give the model.safetensors of a run")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = _header(file.metadata() or {}, path)
            names = file.keys() if with_tensors else ()
            return header, {name: file.get_tensor(name) for name in names}
    except SafetensorError as err:
        raise InvalidInput(
            f"{path} cannot be read as safetensors ({err}): it is cut off, damaged or another "
            "kind of file. Copy it again, or give the model.safetensors of a run."
        ) from err


def _header(metadata: Mapping[str, str], path: Path) -> ModelHeader:
    try:
        text = metadata[_KEY]
    except KeyError as err:
        raise InvalidInput(
            f"{path} is a safetensors file without an fdfed header, so nothing says which network "
            "its weights are for; give the model.safetensors of a run"
        ) from err
    values = strict_json.loads(text, source=f"the fdfed header of {path}")
    written = values.get("format") if isinstance(values, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise InvalidInput(
            f"{path} has model format {written}, written by fdfed {values.get('fdfed_version')}; "
            f"fdfed {fdfed.__version__} reads up to format {FORMAT}. Install that version or later."
        )
    return parse(ModelHeader, values, source=f"the fdfed header of {path}")


def _check_fit(
    network: SegmentationNetwork, header: ModelHeader, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Refuses weights that are not those of the header's network, naming what differs."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    odd = [f"{name} is {t.dtype}" for name, t in tensors.items() if t.dtype not in _DTYPES]
    differing = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differing or odd or header.taps != tuple(network.tap_names):
        findings = [*differing, *odd] or [f"taps are {', '.join(header.taps)}"]
        shown = "; ".join(findings[:3]) + ("; …" if len(findings) > 3 else "")
        raise InvalidInput(
            f"the weights in {path} are not those of its header's {header.network} "
            f"(width {header.width}, norm {header.norm}, {header.in_channels} channel(s)): "
            f"{len(findings)} finding(s): {shown}. The file was altered, or written by another "
            "version of the network; write it again from the run."
        )
