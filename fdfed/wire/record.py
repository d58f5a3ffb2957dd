"""A record's parts: how they are put together, and how a stranger's are taken apart."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from fdfed.config import RunPlan, SiteName
from fdfed.errors import InvalidInput, WireError
from fdfed.evaluation.aggregates import Aggregate
from fdfed.evaluation.results import SitePrivacy
from fdfed.wire.flat_array import flat_array
from fdfed.wire.weights import MAX_MANIFEST, Integers, Weights, pack, pack_integers, packed_integers

FORMAT: Final = 1
"""Version of the records. A peer of another version is refused, never guessed at."""

MAX_EXAMPLES: Final = 10_000_000
MAX_SIGNATURE: Final = 128
"""Hexadecimal digits of an Ed25519 signature."""
_HEADER: Final = "fdfed"
_VECTORS: Final = "vectors"
_WEIGHTS: Final = "weights"
_MASKED: Final = "masked"
_MAX_TEXT: Final = 65_536
_MAX_VECTOR: Final = 1024
_MAX_MAGNITUDE: Final = 1e12
"""Of a loss, an α, a time: far above any real one, and so small that no mean over sites overflows
into an infinity that the other sites would be sent."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KIND: Final = re.compile(r"[a-z][a-z-]{0,31}")
_RUN_ID: Final = re.compile(r"[0-9a-f]{16,64}")

Part = Literal["validation", "test"]

_AGGREGATE: Final = ("n", "n_empty", "mean", "sd", "q25", "median", "q75")


def build_record(
    kind: str,
    header: Mapping[str, Any],
    *,
    vectors: Mapping[str, NDArray[np.float64]] | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
    masked: NDArray[np.uint64] | None = None,
) -> RecordDict:
    """A record of the current format with these parts; vectors become float64."""
    entries: dict[str, Any] = {"format": FORMAT, "kind": kind, **header}
    record = RecordDict()
    if weights is not None:
        record[_WEIGHTS], entries["tensors"] = pack(weights)
    if masked is not None:
        record[_MASKED] = pack_integers(masked)
    record[_HEADER] = ConfigRecord(entries)
    if vectors is not None:
        as_float64 = {name: np.asarray(v, dtype=np.float64) for name, v in vectors.items()}
        record[_VECTORS] = ArrayRecord({name: Array(v) for name, v in as_float64.items()})
    return record


def footprint(record: RecordDict) -> tuple[int, str]:
    """Bytes of a record's content and their SHA-256: what an audit log says of it."""
    digest, size = hashlib.sha256(), 0
    for part in sorted(record):
        value = record[part]
        if isinstance(value, ArrayRecord):
            entries = [(name, array.data) for name, array in value.items()]
        else:
            entries = [(key, repr(entry).encode()) for key, entry in sorted(value.items())]
        for name, data in entries:
            size += len(data)
            for piece in (part.encode(), name.encode(), data):
                # The length keeps two different splits of one byte string apart.
                digest.update(len(piece).to_bytes(8, "big"))
                digest.update(piece)
    return size, digest.hexdigest()


def without_weights(record: RecordDict) -> tuple[int, str]:
    """The footprint of all of a record but its weights and the list of them."""
    rest = RecordDict({part: value for part, value in record.items() if part != _WEIGHTS})
    header = rest.get(_HEADER)
    if isinstance(header, ConfigRecord):
        rest[_HEADER] = ConfigRecord({key: v for key, v in header.items() if key != "tensors"})
    return footprint(rest)


def has_tensors(record: RecordDict) -> bool:
    """Whether the record carries a tensor of a network; its list of them may be empty."""
    header = record.get(_HEADER)
    return isinstance(header, ConfigRecord) and header.get("tensors", "[]") != "[]"


def caption(record: RecordDict) -> dict[str, str | int]:
    """Kind, run, round and attempt of a record, which may be a stranger's, as far as its header has
    them in the agreed form: what an audit log says of it."""
    header = record.get(_HEADER)
    found: dict[str, str | int] = {"kind": "unknown"}
    if not isinstance(header, ConfigRecord):
        return found
    kind, run = header.get("kind"), header.get("run_id")
    if isinstance(kind, str) and _KIND.fullmatch(kind):
        found["kind"] = kind
    if isinstance(run, str) and _RUN_ID.fullmatch(run):
        found["run"] = run
    for name, short in (("server_round", "round"), ("attempt", "attempt")):
        value = header.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            found[short] = value
    return found


def as_vector(aggregate: Aggregate) -> NDArray[np.float64]:
    """An aggregate as the vector in which it travels."""
    return np.array([getattr(aggregate, name) for name in _AGGREGATE], dtype=np.float64)


def as_text(privacy: SitePrivacy | None) -> str:
    """What a site has spent, as the text in which it travels; empty for None."""
    return "" if privacy is None else json.dumps(asdict(privacy))


class Reader:
    """A record's parts behind checks; every getter raises `WireError` naming the key."""

    def __init__(self, record: RecordDict, kind: str, keys: Sequence[str]) -> None:
        header = record.get(_HEADER)
        if not isinstance(header, ConfigRecord):
            raise WireError(f"a {kind!r} message without its {_HEADER!r} part; is the peer fdfed?")
        if header.get("format") != FORMAT:
            raise WireError(
                f"a message of format {header.get('format')!r}, but this version reads {FORMAT}; "
                "install the same fdfed on both sides"
            )
        if header.get("kind") != kind:
            raise WireError(f"expected a {kind!r} message, got {header.get('kind')!r}")
        expected = {"format", "kind", *keys}
        if set(header) != expected:
            odd = sorted(expected.symmetric_difference(header))
            raise WireError(f"a {kind!r} message lacks or adds the keys {odd}")
        self._kind, self._header, self._record = kind, header, record

    def _get(self, key: str, types: type | tuple[type, ...]) -> Any:
        value = self._header[key]
        # bool is an int in Python, never on our wire.
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            raise WireError(f"{self._kind}.{key} has the wrong type {type(value).__name__}")
        return value

    def text(self, key: str, *, limit: int = _MAX_TEXT) -> str:
        value: str = self._get(key, str)
        if len(value) > limit:
            raise WireError(f"{self._kind}.{key} is {len(value)} characters long; at most {limit}")
        return value

    def digest(self, key: str) -> str:
        value = self.text(key)
        if not _DIGEST.fullmatch(value):
            raise WireError(f"{self._kind}.{key} is not a SHA-256 in hexadecimal")
        return value

    def run_id(self) -> str:
        value = self.text("run_id")
        # It becomes a folder's name at the site, so nothing but hexadecimal digits may pass.
        if not _RUN_ID.fullmatch(value):
            raise WireError(f"{self._kind}.run_id is not 16 to 64 hexadecimal digits")
        return value

    def sites(self, key: str) -> tuple[str, ...]:
        try:
            names = TypeAdapter(list[SiteName]).validate_json(self.text(key))
        except ValidationError as err:
            raise WireError(f"{self._kind}.{key} is not a list of sites") from err
        return tuple(names)

    def texts(self, key: str, *, limit: int) -> tuple[str, ...]:
        try:
            found = TypeAdapter(list[str]).validate_json(self.text(key, limit=limit))
        except ValidationError as err:
            raise WireError(f"{self._kind}.{key} is not a list of texts") from err
        return tuple(found)

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool))

    def integer(self, key: str, low: int, high: int) -> int:
        value = int(self._get(key, int))
        if not low <= value <= high:
            raise WireError(f"{self._kind}.{key} is {value}, outside {low} to {high}")
        return value

    def number(self, key: str, *, may_be_nan: bool = False) -> float:
        value = float(self._get(key, (float, int)))
        if not abs(value) <= _MAX_MAGNITUDE and not (may_be_nan and math.isnan(value)):
            raise WireError(f"{self._kind}.{key} is {value}, not within ±{_MAX_MAGNITUDE:g}")
        return value

    def phase(self) -> Literal[1, 2]:
        return 1 if self.integer("phase", 1, 2) == 1 else 2

    def part(self) -> Part:
        value = self.text("part")
        if value == "validation":
            return "validation"
        if value == "test":
            return "test"
        raise WireError(f"{self._kind}.part is {value!r}; only validation and test are scored")

    def plan(self) -> RunPlan:
        try:
            return RunPlan.from_json(self.text("plan"))
        except InvalidInput as err:
            raise WireError(f"the {self._kind!r} message carries no usable plan: {err}") from err

    def _arrays(self, part: str) -> ArrayRecord:
        value = self._record.get(part)
        if not isinstance(value, ArrayRecord):
            raise WireError(f"a {self._kind!r} message without its {part!r} part")
        return value

    def has_vector(self, name: str) -> bool:
        return name in self._arrays(_VECTORS)

    def vector(self, name: str, *, may_be_nan: bool = False) -> NDArray[np.float64]:
        arrays = self._arrays(_VECTORS)
        if name not in arrays:
            raise WireError(f"a {self._kind!r} message without the vector {name!r}")
        try:
            value = flat_array(arrays[name].data, "<f8").copy()  # the reader's own, to write to
        except WireError as err:
            raise WireError(f"{self._kind}.{name} {err}") from err
        if len(value) > _MAX_VECTOR:
            raise WireError(f"{self._kind}.{name} has {len(value)} elements of {_MAX_VECTOR}")
        large = (np.abs(value) > _MAX_MAGNITUDE).any()
        if large or (not may_be_nan and np.isnan(value).any()):
            raise WireError(
                f"{self._kind}.{name} holds values that are not finite, or not within "
                f"±{_MAX_MAGNITUDE:g}"
            )
        return value

    def aggregate(self, name: str) -> Aggregate:
        value = self.vector(name, may_be_nan=True)
        counts, fractions = value[:2], value[2:]
        if (
            len(value) != len(_AGGREGATE)
            # Quartiles are withheld over few images; the others are always there.
            or np.isnan(value[:4]).any()
            or (counts != np.floor(counts)).any()
            or (counts < 0).any()
            or (counts > MAX_EXAMPLES).any()
            or (fractions < 0).any()
            or (fractions > 1).any()
        ):
            raise WireError(f"{self._kind}.{name} is not two counts and five fractions")
        return Aggregate(int(value[0]), int(value[1]), *(float(fraction) for fraction in fractions))

    def site_privacy(self, key: str) -> SitePrivacy | None:
        """What a site has spent; None where the text is empty."""
        text = self.text(key)
        if not text:
            return None
        try:
            found = TypeAdapter(SitePrivacy).validate_json(text)
        except ValidationError as err:
            raise WireError(f"{self._kind}.{key} does not say what a site has spent") from err
        if not (
            0 <= found.epsilon <= _MAX_MAGNITUDE
            and 0 < found.delta < 1
            and 1 <= found.units <= MAX_EXAMPLES
        ):
            raise WireError(f"{self._kind}.{key} holds an impossible ε, δ or number of units")
        return found

    def weights(self) -> Weights:
        return Weights(self._arrays(_WEIGHTS), self.text("tensors", limit=MAX_MANIFEST))

    def masked(self) -> NDArray[np.uint64] | Integers:
        """The integers: an array, or where they lie on disk what reads them block by block."""
        found = packed_integers(self._arrays(_MASKED))
        return found if found.is_spooled else found.whole()
