"""`fdfed predict`: masks and overlays for new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fdfed.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from fdfed.evaluation.prediction import Unreadable
    from fdfed.training.model_file import ModelHeader


def predict(
    model: Annotated[Path, typer.Option(help="Model file of a run: model.safetensors.")],
    images: Annotated[Path, typer.Option(help="Folder of PNG, JPEG, TIFF, BMP or DICOM images.")],
    out: Annotated[Path, typer.Option(help="Folder for masks/, overlays/ and predictions.csv.")],
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also the images in the folders below it.")
    ] = False,
    device: Annotated[
        Literal["auto", "cuda", "cpu"], typer.Option(help="Where to compute.")
    ] = "auto",
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability from which a pixel is foreground; default: the model's."),
    ] = None,
    verify_key: Annotated[
        str | None,
        typer.Option(
            help="Use the model only if it lies in a release that this public key signed."
        ),
    ] = None,
) -> None:
    """Segment new images with a trained model.

    Leaves a mask (0 and 255) and an overlay for each image, at the image's own size, and a table.
    DICOM files are taken under any name, one frame each. An image that is larger than the network
    takes at once goes through it in overlapping tiles.
    A file that cannot be read is named and skipped; the command then ends with exit code 3.
    """
    # Slow to import; --help must not wait for them.
    from rich.console import Console
    from rich.progress import track

    from fdfed.evaluation.prediction import (
        Prediction,
        Unreadable,
        find_images,
        predict_images,
        write_predictions,
    )
    from fdfed.training.device import resolve_device
    from fdfed.training.model_file import load_model

    if verify_key is not None:
        _verify(model, verify_key)
    paths = find_images(images, out, recursive=recursive)
    chosen = resolve_device(device)
    network, header = load_model(model, chosen)
    console = Console()
    _warn_of_phantoms(console, header)
    limit = header.threshold if threshold is None else threshold
    outcomes = predict_images(
        network, header, paths, out, device=chosen, threshold=limit, root=images
    )
    rows: list[Prediction] = []
    skipped: list[Unreadable] = []
    bar = track(outcomes, "images", len(paths), console=console, disable=not console.is_terminal)
    for outcome in bar:
        if isinstance(outcome, Unreadable):
            skipped.append(outcome)
        else:
            rows.append(outcome)
    write_predictions(out / "predictions.csv", rows)
    console.print(
        f"{len(rows)} of {len(paths)} images predicted: {out}", soft_wrap=True, markup=False
    )
    if skipped:
        raise DataError(_refusal(skipped, len(paths)))


def _verify(model: Path, key: str) -> None:
    from fdfed.errors import InvalidInput
    from fdfed.release import MODEL, verify_release

    if model.name != MODEL:
        raise InvalidInput(f"--verify-key is about the {MODEL} of a release, and got {model.name}")
    verify_release(model.parent, public_key=key)


def _warn_of_phantoms(console: Console, header: ModelHeader) -> None:
    if header.phantoms:
        console.print(
            "[yellow]This model was trained on built-in phantoms: its masks mean nothing on "
            "medical images.[/yellow]",
            soft_wrap=True,
        )


def _refusal(skipped: list[Unreadable], images: int) -> str:
    lines = [f"  {file.reason}" for file in skipped]
    return f"{len(skipped)} of {images} images could not be read and were skipped:\n" + "\n".join(
        lines
    )
