"""Every Flower record that crosses between coordinator and site: one frozen dataclass a message.

The only module of `fdfed` that imports Flower. `to_record` builds a `RecordDict`; `from_record`
treats its input as a stranger's: the format version, the exact keys, types, ranges, dtypes and
finiteness are checked before any value is used, and whatever does not fit is a `WireError`.
No key string and no Flower record is built anywhere else.

A record holds at most three parts:

    "fdfed"    ConfigRecord   format, kind, and the message's scalars and texts
    "vectors"  ArrayRecord    small float64 arrays, one entry a tap
    "weights"  ArrayRecord    one array: the tensors of the network, packed; the header lists them
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput, WireError
from fdfed.evaluation.metrics import Aggregate
from fdfed.exchange import ExchangeStats

FORMAT: Final = 1
"""Version of the records. A peer of another version is refused, never guessed at."""

_HEADER: Final = "fdfed"
_VECTORS: Final = "vectors"
_WEIGHTS: Final = "weights"
_MAX_EXAMPLES: Final = 10_000_000
_MAX_TEXT: Final = 65_536
_MAX_MAGNITUDE: Final = 1e12
"""Of a loss, an α, a time: far above any real one, and so small that no mean over sites overflows
into an infinity that the other sites would be sent."""
_RUN_ID: Final = re.compile(r"[0-9a-f]{16,64}")
_PACKED: Final = "packed"
_MAX_TENSORS: Final = 10_000
_MAX_MANIFEST: Final = 4 << 20

_Dtype = Literal["float16", "float32", "float64", "int64"]
_Side = Annotated[int, Field(ge=0, le=2**31)]

Part = Literal["validation", "test"]


class Weights(Mapping[str, NDArray[Any]]):
    """The tensors of a message by name: read-only views of the one packed array that travelled.

    One array, not one a tensor: Flower moves every array as objects of their own, a request each,
    which made a round of a U-Net take ten times as long. A tensor's values are checked when it is
    read, so nothing of the size of the model is ever copied.

    Raises:
        WireError: if the packed array and its list of tensors do not agree; on access, for a value
            that is not finite.
    """

    def __init__(self, record: ArrayRecord, manifest: str) -> None:
        if list(record) != [_PACKED]:
            raise WireError(f"the weights are not the one array {_PACKED!r}")
        self._data = _packed_bytes(record[_PACKED])
        self._places: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] = {}
        offset = 0
        for name, dtype, shape in _parse_manifest(manifest):
            self._places[name] = (dtype, shape, offset)
            offset += dtype.itemsize * math.prod(shape)
        if offset != len(self._data):
            raise WireError(
                f"the packed weights are {len(self._data)} bytes, but their list says {offset}"
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        dtype, shape, offset = self._places[name]
        count = math.prod(shape)
        value = np.frombuffer(self._data, dtype, count=count, offset=offset).reshape(shape)
        if dtype.kind == "f" and not np.isfinite(value).all():
            raise WireError(f"the tensor {name!r} holds values that are not finite")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Serialised size in bytes."""
        return len(self._data)


def _pack(weights: Mapping[str, NDArray[Any]]) -> tuple[Array, str]:
    """All tensors in one array of bytes (little-endian, in order), and the list of them."""
    entries: list[tuple[str, str, list[int]]] = []
    pieces: list[NDArray[np.uint8]] = [np.empty(0, dtype=np.uint8)]
    for name, value in weights.items():
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        # `require` and not `ascontiguousarray`, which would make a scalar one-dimensional.
        flat = np.require(little, requirements="C").reshape(-1).view(np.uint8)
        entries.append((name, value.dtype.name, list(value.shape)))
        pieces.append(flat)
    return Array(np.concatenate(pieces)), json.dumps(entries, separators=(",", ":"))


def _packed_bytes(array: Array) -> memoryview:
    """The bytes behind a serialised uint8 array, without the copy that `np.load` makes."""
    try:
        stream = io.BytesIO(array.data)
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"array format {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, TypeError, EOFError, SyntaxError) as err:
        raise WireError("the packed weights are not a readable array") from err
    data = memoryview(array.data)[stream.tell() :]
    if dtype != np.uint8 or shape != (len(data),):
        raise WireError(f"the packed weights are {dtype} {shape} in {len(data)} bytes")
    return data


def _parse_manifest(text: str) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    """Name, dtype and shape of each packed tensor.

    Raises:
        WireError: for anything but a list of at most `_MAX_TENSORS` such triples, each name once.
    """
    try:
        entries = TypeAdapter(list[tuple[str, _Dtype, list[_Side]]]).validate_json(text)
    except ValidationError as err:
        raise WireError("the list of packed weights is not of the agreed form") from err
    if len(entries) > _MAX_TENSORS or len({name for name, _, _ in entries}) != len(entries):
        raise WireError("the list of packed weights is too long, or names a tensor twice")
    return [(n, np.dtype(d).newbyteorder("<"), tuple(shape)) for n, d, shape in entries]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Coordinator → site: this is the plan; say what you have for it."""

    plan: RunPlan
    run_id: str

    def to_record(self) -> RecordDict:
        return _record("prepare", {"plan": self.plan.to_json(), "run_id": self.run_id})

    @classmethod
    def from_record(cls, record: RecordDict) -> Prepare:
        reader = _Reader(record, "prepare", ("plan", "run_id"))
        return cls(plan=reader.plan(), run_id=reader.run_id())


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Site → coordinator: counts alone; nothing about any one image."""

    site: str
    num_train: int
    num_validation: int
    num_test: int
    num_empty: int
    """Images whose annotation is empty (normals), over all parts."""
    phantoms: bool
    version: str

    def to_record(self) -> RecordDict:
        names = ("num_train", "num_validation", "num_test", "num_empty", "phantoms", "version")
        return _record("prepared", {"site": self.site, **{n: getattr(self, n) for n in names}})

    @classmethod
    def from_record(cls, record: RecordDict) -> Prepared:
        counts = ("num_train", "num_validation", "num_test", "num_empty")
        reader = _Reader(record, "prepared", ("site", "phantoms", "version", *counts))
        return cls(
            site=reader.text("site"),
            phantoms=reader.flag("phantoms"),
            version=reader.text("version"),
            **{name: reader.integer(name, 0, _MAX_EXAMPLES) for name in counts},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainInstruction:
    """Coordinator → site: train one round from these weights with this α."""

    plan: RunPlan
    run_id: str
    server_round: int
    attempt: int
    phase: Literal[1, 2]
    total_examples: int
    """N: training images of all sites that were asked this round; a site's cotangents count
    N / n_s, because the aggregation weights sites by n_s / N."""
    best_round: int
    """The round whose weights were the best by validation so far, 0 before any: the site keeps
    what it needs to go back there."""
    alpha: NDArray[np.float64]
    """One weight a tap, in the network's tap order."""
    target: NDArray[np.float64] | None
    """c of the dual update, one a tap; None before it is known, NaN at a tap never measured."""
    weights: Mapping[str, NDArray[Any]]

    def to_record(self) -> RecordDict:
        vectors = {"alpha": self.alpha}
        if self.target is not None:
            vectors["target"] = self.target
        scalars = {name: getattr(self, name) for name in _TRAIN_SCALARS}
        header = {"plan": self.plan.to_json(), "run_id": self.run_id, **scalars}
        return _record("train", header, vectors=vectors, weights=self.weights)

    @classmethod
    def from_record(cls, record: RecordDict) -> TrainInstruction:
        reader = _Reader(record, "train", ("plan", "run_id", "tensors", *_TRAIN_SCALARS))
        plan = reader.plan()
        return cls(
            plan=plan,
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 1, plan.rounds),
            attempt=reader.integer("attempt", 1, 1_000_000),
            phase=reader.phase(),
            total_examples=reader.integer("total_examples", 1, _MAX_EXAMPLES),
            best_round=reader.integer("best_round", 0, plan.rounds),
            alpha=reader.vector("alpha"),
            target=reader.vector("target", may_be_nan=True)
            if reader.has_vector("target")
            else None,
            weights=reader.weights(),
        )


_TRAIN_SCALARS: Final = (
    "server_round",
    "attempt",
    "phase",
    "total_examples",
    "best_round",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Site → coordinator: the weights after a round, its α proposal, and means over its steps."""

    run_id: str
    server_round: int
    attempt: int
    num_examples: int
    loss_seg: float
    """Mean of L_seg over the round's steps."""
    seconds: float
    alpha: NDArray[np.float64]
    """The proposed α, not clipped, one a tap."""
    fd: NDArray[np.float64]
    """Mean of L_fd over the round's steps, one a tap; NaN where no image was valid."""
    exch: NDArray[np.float64]
    """Mean of the global L_fd^exch over the round's answered steps, one a tap; NaN where none."""
    valid: NDArray[np.float64]
    """Share of the round's steps in which the tap's prototypes were valid."""
    exchange: ExchangeStats = field(default_factory=ExchangeStats)
    weights: Mapping[str, NDArray[Any]]

    def to_record(self) -> RecordDict:
        header = {name: getattr(self, name) for name in _RESULT_SCALARS}
        stats = {f"exchange_{name}": getattr(self.exchange, name) for name in _STATS}
        vectors = {name: getattr(self, name) for name in _RESULT_VECTORS}
        return _record("trained", header | stats, vectors=vectors, weights=self.weights)

    @classmethod
    def from_record(cls, record: RecordDict) -> TrainResult:
        stats = [f"exchange_{name}" for name in _STATS]
        reader = _Reader(record, "trained", ("tensors", *_RESULT_SCALARS, *stats))
        return cls(
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 1, 10**9),
            attempt=reader.integer("attempt", 1, 1_000_000),
            num_examples=reader.integer("num_examples", 1, _MAX_EXAMPLES),
            loss_seg=reader.number("loss_seg"),
            seconds=reader.number("seconds"),
            alpha=reader.vector("alpha"),
            fd=reader.vector("fd", may_be_nan=True),
            exch=reader.vector("exch", may_be_nan=True),
            valid=reader.vector("valid"),
            exchange=ExchangeStats(
                steps=reader.integer("exchange_steps", 0, 2**31),
                answered=reader.integer("exchange_answered", 0, 2**31),
                dropped=reader.integer("exchange_dropped", 0, 2**31),
                peers_mean=reader.number("exchange_peers_mean"),
                bytes_up=reader.integer("exchange_bytes_up", 0, 2**62),
                bytes_down=reader.integer("exchange_bytes_down", 0, 2**62),
                swap_ms_p50=reader.number("exchange_swap_ms_p50"),
                swap_ms_p99=reader.number("exchange_swap_ms_p99"),
            ),
            weights=reader.weights(),
        )


_RESULT_SCALARS: Final = (
    "run_id",
    "server_round",
    "attempt",
    "num_examples",
    "loss_seg",
    "seconds",
)
_RESULT_VECTORS: Final = ("alpha", "fd", "exch", "valid")
_STATS: Final = (
    "steps",
    "answered",
    "dropped",
    "peers_mean",
    "bytes_up",
    "bytes_down",
    "swap_ms_p50",
    "swap_ms_p99",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateInstruction:
    """Coordinator → site: score these weights on one part of your split."""

    plan: RunPlan
    run_id: str
    server_round: int
    """The round that made the weights; tensors that stay at the site are taken from it too."""
    part: Part
    weights: Mapping[str, NDArray[Any]]

    def to_record(self) -> RecordDict:
        header = {
            "plan": self.plan.to_json(),
            "run_id": self.run_id,
            "server_round": self.server_round,
            "part": self.part,
        }
        return _record("evaluate", header, weights=self.weights)

    @classmethod
    def from_record(cls, record: RecordDict) -> EvaluateInstruction:
        reader = _Reader(record, "evaluate", ("plan", "run_id", "server_round", "part", "tensors"))
        plan = reader.plan()
        return cls(
            plan=plan,
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 0, plan.rounds),
            part=reader.part(),
            weights=reader.weights(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """Site → coordinator: aggregates over at least the plan's minimum count of images, or none."""

    run_id: str
    server_round: int
    part: Part
    dice: Aggregate | None
    iou: Aggregate | None
    """None when fewer than `min_count` images were scored: too few to hide one among."""

    def to_record(self) -> RecordDict:
        withheld = self.dice is None or self.iou is None
        header = {
            "run_id": self.run_id,
            "server_round": self.server_round,
            "part": self.part,
            "withheld": withheld,
        }
        vectors = {}
        if self.dice is not None and self.iou is not None:
            vectors = {"dice": _as_vector(self.dice), "iou": _as_vector(self.iou)}
        return _record("evaluated", header, vectors=vectors)

    @classmethod
    def from_record(cls, record: RecordDict) -> EvaluateResult:
        reader = _Reader(record, "evaluated", ("run_id", "server_round", "part", "withheld"))
        withheld = reader.flag("withheld")
        return cls(
            run_id=reader.run_id(),
            server_round=reader.integer("server_round", 0, 10**9),
            part=reader.part(),
            dice=None if withheld else reader.aggregate("dice"),
            iou=None if withheld else reader.aggregate("iou"),
        )


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


def _as_vector(aggregate: Aggregate) -> NDArray[np.float64]:
    return np.array([getattr(aggregate, name) for name in _AGGREGATE], dtype=np.float64)


_AGGREGATE: Final = ("n", "n_empty", "mean", "sd", "q25", "median", "q75")


def _record(
    kind: str,
    header: Mapping[str, Any],
    *,
    vectors: Mapping[str, NDArray[np.float64]] | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> RecordDict:
    entries: dict[str, Any] = {"format": FORMAT, "kind": kind, **header}
    record = RecordDict()
    if weights is not None:
        packed, entries["tensors"] = _pack(weights)
        record[_WEIGHTS] = ArrayRecord({_PACKED: packed})
    record[_HEADER] = ConfigRecord(entries)
    if vectors is not None:
        as_float64 = {name: np.asarray(v, dtype=np.float64) for name, v in vectors.items()}
        record[_VECTORS] = ArrayRecord({name: Array(v) for name, v in as_float64.items()})
    return record


class _Reader:
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

    def run_id(self) -> str:
        value = self.text("run_id")
        # It becomes a folder's name at the site, so nothing but hexadecimal digits may pass.
        if not _RUN_ID.fullmatch(value):
            raise WireError(f"{self._kind}.run_id is not 16 to 64 hexadecimal digits")
        return value

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool))

    def integer(self, key: str, low: int, high: int) -> int:
        value = int(self._get(key, int))
        if not low <= value <= high:
            raise WireError(f"{self._kind}.{key} is {value}, outside {low} to {high}")
        return value

    def number(self, key: str) -> float:
        value = float(self._get(key, (float, int)))
        if not abs(value) <= _MAX_MAGNITUDE:
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
        except (InvalidInput, json.JSONDecodeError, RecursionError) as err:
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
            value = arrays[name].numpy()
        except Exception as err:
            raise WireError(f"{self._kind}.{name} does not hold a readable array") from err
        # `np.load` also reads archives of arrays, which are none.
        if not isinstance(value, np.ndarray):
            raise WireError(f"{self._kind}.{name} does not hold an array")
        if value.dtype != np.float64 or value.ndim != 1 or len(value) > 1024:
            raise WireError(f"{self._kind}.{name} is {value.dtype} {value.shape}, not float64 (n,)")
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
            or (counts > _MAX_EXAMPLES).any()
            or (fractions < 0).any()
            or (fractions > 1).any()
        ):
            raise WireError(f"{self._kind}.{name} is not two counts and five fractions")
        return Aggregate(int(value[0]), int(value[1]), *(float(fraction) for fraction in fractions))

    def weights(self) -> Weights:
        return Weights(self._arrays(_WEIGHTS), self.text("tensors", limit=_MAX_MANIFEST))
