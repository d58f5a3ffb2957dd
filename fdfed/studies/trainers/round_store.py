"""What a training loop keeps after a round, so that it can be cut and go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fdfed.files.atomic_file import replacing, write_text

_INDEX: Final = "rounds.json"


@dataclass(frozen=True, slots=True)
class RoundStore:
    """The newest round's tensors and a JSON document, in one folder.

    The document is replaced last and names the tensors' file, so a reader has the round before or
    the whole new one.
    """

    folder: Path

    def save(self, number: int, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Replaces what the round before left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"round-{number:06d}.safetensors"
        with replacing(self.folder / name) as part:
            # Copies: one tensor may be the newest and the best, and the format shares none.
            own = {
                key: tensor.clone(memory_format=torch.contiguous_format)
                for key, tensor in tensors.items()
            }
            save_file(own, part)
        write_text(self.folder / _INDEX, json.dumps({"file": name} | dict(document)))
        for path in self.folder.glob("*.safetensors"):
            if path.name != name:
                path.unlink()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and document of the newest round; None if there is none."""
        path = self.folder / _INDEX
        if not path.exists():
            return None
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return load_file(self.folder / document["file"]), document
