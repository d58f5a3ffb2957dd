"""`fdfed export`: a trained model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    model: Annotated[Path, typer.Option(help="Model file of a run: model.safetensors.")],
    to: Annotated[Literal["onnx", "bundle"], typer.Option(help="Which format.")],
    out: Annotated[Path, typer.Option(help="New ONNX file, or new folder of the MONAI bundle.")],
) -> None:
    """Write a trained model as ONNX, or as a MONAI bundle.

    ONNX needs the optional extra named export. The file is kept only if ONNX
    Runtime gives the network's own logits. A bundle runs where MONAI and fdfed are installed.
    """
    import torch
    from rich.console import Console

    from fdfed.errors import InvalidInput
    from fdfed.export import PHANTOM_WARNING, write_bundle, write_onnx
    from fdfed.training.model_file import load_model

    console = Console(soft_wrap=True, markup=False, highlight=False)
    network, header = load_model(model, torch.device("cpu"))
    if header.phantoms:
        console.print(PHANTOM_WARNING, style="yellow")
    if to == "bundle":
        write_bundle(out, model, network, header)
        console.print(f"MONAI bundle: {out}")
        return
    if out.exists():
        raise InvalidInput(f"{out} exists already; give --out a new file")
    difference = write_onnx(out, network, header)
    console.print(f"ONNX: {out}; its logits differ by at most {difference:.1g} of the largest")
