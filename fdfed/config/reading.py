"""Configuration that others wrote: read whole, or refused with every finding in one message."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fdfed.errors import InvalidInput
from fdfed.files import strict_json

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], values: Any, *, source: str) -> Model:
    """`values` as a `model`; every finding in one message that names `source` and the keys.

    Raises:
        InvalidInput: with one line per key that is unknown, missing or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as err:
        lines = [
            f"  {'.'.join(str(part) for part in e['loc']) or '(whole)'}: {e['msg']}"
            for e in err.errors()
        ]
        raise InvalidInput(f"{source} cannot be used:\n" + "\n".join(lines)) from err


def read_json(model: type[Model], path: Path, *, wanted: str) -> Model:
    """The `model` in a JSON file, which a stranger may have written.

    Args:
        wanted: what to give in its place, for the message if there is no such file.

    Raises:
        InvalidInput: if the file is missing, or holds something else.
    """
    try:
        text = path.read_bytes()
    except OSError as err:
        raise InvalidInput(f"{path} cannot be read ({err.strerror}); give {wanted}") from err
    return parse(model, strict_json.loads(text, source=str(path)), source=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InvalidInput: if the file is missing or is not TOML; names line and column.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise InvalidInput(f"{path} does not exist; give an existing file to --config") from err
    except (ValueError, RecursionError) as err:  # a number too long, or nesting too deep, too
        raise InvalidInput(f"{path} is not valid TOML: {err}") from err
