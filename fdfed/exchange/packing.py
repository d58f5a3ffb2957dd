"""A step's prototypes as the one vector of a layout, still connected to what they come from.

Apart from the layout: a coordinator, which never sees a tensor, reads layouts before it has loaded
PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.exchange.layout import TapLayout


def pack_prototypes(
    layout: TapLayout,
    foreground: Mapping[str, Float[Tensor, " _"]],
    background: Mapping[str, Float[Tensor, " _"]],
) -> Float[Tensor, " size"]:
    """All prototypes, each `(C_l,)`, in one vector that stays connected to their graph.

    Raises:
        InvalidInput: if a tap is missing, unknown, or not of its width.
    """
    expected = {name: (width,) for name, width in zip(layout.names, layout.channels, strict=True)}
    for part, prototypes in (("foreground", foreground), ("background", background)):
        found = {name: tuple(value.shape) for name, value in prototypes.items()}
        if found != expected:
            raise InvalidInput(
                f"the {part} prototypes to pack are {found} but the layout has {expected}; "
                "pass the batch means of exactly the layout's taps"
            )
    return torch.cat([part[name] for part in (foreground, background) for name in layout.names])
