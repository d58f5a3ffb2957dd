"""A model as a MONAI bundle: metadata, a configuration that runs it, and weights without pickle.

The format is MONAI's specification of bundles. Departure: it wants `models/model.pt`, a pickled
state dictionary; here the weights are the model file itself, `models/model.safetensors`, since a
pickle is a program. A bundle needs fdfed installed, beside MONAI: its network and reading are ours.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import fdfed
from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import replacing, write_text
from fdfed.networks import SegmentationNetwork
from fdfed.training.model_file import ModelHeader

WEIGHTS: Final = "models/model.safetensors"
_STEPS: Final = "fdfed.export.bundle_steps"
PHANTOM_WARNING: Final = "Trained on built-in phantoms: its masks mean nothing on medical images."
_USE: Final = "Research. Not a medical device, and not to be used for a diagnosis."


def write_bundle(
    folder: Path, model: Path, network: SegmentationNetwork, header: ModelHeader
) -> None:
    """Writes the bundle into `folder`, which must not hold anything yet.

    Args:
        model: the model file, which becomes the bundle's weights byte for byte.
        network: what the file describes; its sizes are written down.

    Raises:
        InvalidInput: if the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} exists already and is not empty; give --out a new folder")
    with replacing(folder / WEIGHTS) as part:
        shutil.copyfile(model, part)
    _write_json(folder / "configs" / "inference.json", _inference(header))
    write_text(folder / "docs" / "README.md", _readme(header))
    # Last: a folder without it is no bundle.
    _write_json(folder / "configs" / "metadata.json", _metadata(network, header))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _metadata(network: SegmentationNetwork, header: ModelHeader) -> dict[str, Any]:
    shape = _spatial_shape(network, header)
    common = {"type": "image", "spatial_shape": shape, "dtype": "float32", "is_patch_data": False}
    channels = ("grey",) if header.in_channels == 1 else ("red", "green", "blue")
    image = common | {
        "format": "magnitude",
        "modality": "n/a",
        "num_channels": header.in_channels,
        "value_range": [0, 1],
        "channel_def": {str(k): name for k, name in enumerate(channels)},
    }
    pred = common | {
        "format": "segmentation",
        "num_channels": 1,
        "value_range": [],
        "channel_def": {"0": "logit of the foreground"},
    }
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by fdfed {fdfed.__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "fdfed": fdfed.__version__,
            "safetensors": version("safetensors"),
            "pytorch-ignite": "0.5",
        },
        "name": f"fdfed {header.network}",
        "task": "Segmentation of the foreground of two-dimensional medical images",
        "description": _description(header),
        "authors": "not stated",
        "copyright": "not stated",
        "data_source": "images of the sites, which never left them",
        "image_classes": f"{header.in_channels} channel(s), scaled to [0, 1]",
        "pred_classes": f"foreground where the sigmoid of the logit is >= {header.threshold:g}",
        "eval_metrics": {f"dice_{name}": entry.mean for name, entry in header.dice.items()},
        "intended_use": f"{PHANTOM_WARNING} {_USE}" if header.phantoms else _USE,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        "fdfed": header.model_dump(mode="json"),
    }


def _spatial_shape(network: SegmentationNetwork, header: ModelHeader) -> list[int | str]:
    """In MONAI's words: a number, or `16*n` for any multiple of 16."""
    if header.crop is None or network.fixed_size is not None:
        side = network.fixed_size or header.size
        return [side, side]
    return [f"{network.size_multiple}*n", f"{network.size_multiple}*n"]


def _description(header: ModelHeader) -> str:
    text = (
        f"{header.network} trained by federated learning with fdfed {header.fdfed_version}; the "
        f"sites' images stayed at the sites."
    )
    return f"{PHANTOM_WARNING} {text}" if header.phantoms else text


def _inference(header: ModelHeader) -> dict[str, Any]:
    """The configuration; MONAI resolves `@name` as another entry and `$` as an expression."""
    reading = {"size": header.size, "in_channels": header.in_channels, "crop": header.crop}
    weights = f"Path(@bundle_root) / '{WEIGHTS}'"
    return {
        "imports": [
            "$from pathlib import Path",
            "$import torch",
            "$from fdfed.evaluation.prediction import find_images",
            "$from fdfed.training.model_file import load_model",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": f"$load_model({weights}, @device)[0]",
        "datalist": (
            "$[{'path': str(p)} for p in find_images(Path(@dataset_dir), Path(@output_dir))]"
        ),
        "preprocessing": {"_target_": f"{_STEPS}.ReadImage", **reading},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        # One at a time: images of their own size do not stack.
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {"_target_": f"{_STEPS}.WholeImage"},
        "postprocessing": {
            "_target_": f"{_STEPS}.WriteMask",
            "folder": "@output_dir",
            "threshold": header.threshold,
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _readme(header: ModelHeader) -> str:
    scores = "\n".join(
        f"- {name}: Dice {entry.mean:.3f} (sd {entry.sd:.3f}) over {entry.n} test images"
        for name, entry in header.dice.items()
    )
    return (
        f"# fdfed {header.network}\n\n{_description(header)}\n\n{_USE}\n\n"
        "Segment a folder of images, from within this folder, with MONAI, fdfed and "
        "pytorch-ignite installed:\n\n"
        "```sh\npython -m monai.bundle run --config_file configs/inference.json "
        "--dataset_dir IMAGES --output_dir MASKS\n```\n\n"
        f"{scores or 'No test scores came with the model.'}\n"
    )
