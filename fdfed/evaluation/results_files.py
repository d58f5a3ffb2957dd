"""The files of a run's results: `results.json`, and its tables as CSV.

Every writer replaces its file in one move; a value that does not exist is null, or an empty cell.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from fdfed.errors import InvalidInput
from fdfed.evaluation.results import ImageRow, RoundRecord, RunResults
from fdfed.files import strict_json
from fdfed.files.atomic_file import write_text


def write_results(
    path: Path, results: RunResults, *, per_image: Iterable[ImageRow] | None = None
) -> None:
    """`results` as JSON under `path`, atomically.

    Args:
        per_image: only from a simulation or at a site, about the site's own images; a coordinator
            has none and must not be given any.
    """
    document = without_nan(asdict(results))
    if per_image is not None:
        document["per_image"] = [without_nan(asdict(row)) for row in per_image]
    write_text(path, json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def load_results(path: Path) -> RunResults:
    """The run in a `results.json`; keys of later versions are left out.

    Raises:
        InvalidInput: if the file is missing, is not JSON, or is not a run's results.
    """
    results: RunResults = _validated(RunResults, _document(path), path)
    return results


def load_per_image(path: Path) -> tuple[ImageRow, ...]:
    """The per-image rows in a `results.json`; none if it was written by a coordinator.

    Raises:
        InvalidInput: as for `load_results`.
    """
    found = _document(path).get("per_image", [])
    rows: tuple[ImageRow, ...] = _validated(tuple[ImageRow, ...], found, path)
    return rows


ROUND_COLUMNS: Final = (
    "round",
    "phase",
    "attempt",
    "site",
    "loss_seg",
    "loss_fd",
    "val_dice",
    "val_iou",
    "num_examples",
    "drift",
    "seconds",
    "answered",
    "dropped",
    "staleness_mean",
    "staleness_max",
    "refused",
    "bounded_to",
    "clipped",
)


def write_rounds_csv(path: Path, rounds: Iterable[RoundRecord]) -> None:
    """One row per round and site under `path`, atomically; an unknown value is an empty cell."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, ROUND_COLUMNS, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    for record in rounds:
        shared = {"round": record.round, "phase": record.phase, "attempt": record.attempt}
        for site, row in record.sites.items():
            table.writerow(without_nan({**shared, "site": site, **asdict(row)}))
    write_text(path, buffer.getvalue())


def write_images_csv(path: Path, rows: Iterable[ImageRow]) -> None:
    """One row per scored image under `path`, atomically. For a simulation or a site alone."""
    buffer = io.StringIO()
    columns = ("site", "name", "dice", "iou", "foreground_pixels", "empty")
    table = csv.DictWriter(buffer, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(without_nan(asdict(row)) for row in rows)
    write_text(path, buffer.getvalue())


def without_nan(value: Any) -> Any:
    """`value` with every NaN and infinity as `None`: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except FileNotFoundError as err:
        raise InvalidInput(f"{path} does not exist; give the results.json of a run") from err
    document = strict_json.loads(text, source=f"{path} (give the results.json of a run)")
    if not isinstance(document, dict):
        raise InvalidInput(f"{path} holds no JSON object; give the results.json of a run")
    return document


def _validated(kind: Any, value: Any, path: Path) -> Any:
    """`value` as an instance of the annotation `kind`."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise InvalidInput(
            f"{path} is not the results of a run: {where}: {first['msg']} "
            f"({err.error_count()} finding(s)); give the results.json that a run wrote"
        ) from err
