"""What the hostile site of the study sends instead of what it should; each goes by a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fdfed.data import SiteData
from fdfed.exchange import CotangentFrame, Exchange, ExchangeStats, PrototypeFrame
from fdfed.simulation.behaviour import HONEST, Behaviour
from fdfed.wire import Prepared, TrainInstruction, TrainResult, caption

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Hostility:
    """A behaviour, in words, and what it does."""

    words: str
    behaviour: Behaviour = HONEST
    exchange: Callable[[Exchange], Exchange] = lambda exchange: exchange
    images: Callable[[SiteData], SiteData] = lambda images: images


def _of_update(change: Callable[[Arrays, Arrays], Arrays]) -> Behaviour:
    """Replaces the weights of each trained round, given those that were sent and honest ones."""

    def reply(kind: str, asked: RecordDict, answer: RecordDict) -> RecordDict:
        if kind != "train":
            return answer
        result = TrainResult.from_record(answer)
        sent = TrainInstruction.from_record(asked).weights
        return replace(result, weights=change(sent, result.weights)).to_record()

    return Behaviour(reply=reply)


def _scaled(factor: float) -> Callable[[Arrays, Arrays], Arrays]:
    def change(sent: Arrays, honest: Arrays) -> Arrays:
        return {
            name: value
            if value.dtype.kind != "f"
            else (sent[name] + factor * (value - sent[name])).astype(value.dtype)
            for name, value in honest.items()
        }

    return change


def _not_a_number(_: Arrays, honest: Arrays) -> Arrays:
    return {n: np.full_like(v, np.nan) if v.dtype.kind == "f" else v for n, v in honest.items()}


def _another_shape(_: Arrays, honest: Arrays) -> Arrays:
    return {name: value.reshape(-1) for name, value in honest.items()}


def _lying_count(factor: int) -> Behaviour:
    """Says of itself, at every turn, that it has more images than it has."""

    def reply(_kind: str, _asked: RecordDict, answer: RecordDict) -> RecordDict:
        kind = caption(answer)["kind"]
        if kind == "prepared":
            prepared = Prepared.from_record(answer)
            return replace(prepared, num_train=factor * prepared.num_train).to_record()
        if kind == "trained":
            result = TrainResult.from_record(answer)
            return replace(result, num_examples=factor * result.num_examples).to_record()
        return answer

    return Behaviour(reply=reply)


def _flipped(images: SiteData) -> SiteData:
    """Foreground and background of every mask exchanged; the training alone reads them."""
    return replace(images, samples=_InsideOut(images.samples, frozenset(images.parts["train"])))


class _InsideOut(Dataset[dict[str, Tensor]]):
    def __init__(self, samples: Dataset[dict[str, Tensor]], chosen: frozenset[int]) -> None:
        self._samples = samples
        self._chosen = chosen

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self._samples[index]
        return {**sample, "mask": 1 - sample["mask"]} if index in self._chosen else sample


class _Posing:
    """An exchange that sends other prototypes than the site's own."""

    def __init__(self, inner: Exchange, pose: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._inner = inner
        self._pose = pose

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        vector = self._pose(frame.vector).astype(frame.vector.dtype)
        return self._inner.swap(PrototypeFrame(frame.key, vector, np.ones_like(frame.valid)))

    def take_stats(self) -> ExchangeStats:
        return self._inner.take_stats()

    def close(self) -> None:
        self._inner.close()


def _posing(words: str, pose: Callable[[NDArray[Any]], NDArray[Any]]) -> Hostility:
    return Hostility(words, exchange=lambda inner: _Posing(inner, pose))


def _exchanged(vector: NDArray[Any]) -> NDArray[Any]:
    """Foreground as background, and the reverse: what makes the others part them the wrong way."""
    half = len(vector) // 2
    return np.concatenate([vector[half:], vector[:half]])


HOSTILITIES: Final[Mapping[str, Hostility]] = MappingProxyType(
    {
        "honest": Hostility("all four as they should be"),
        "nan": Hostility("its weights are not numbers", _of_update(_not_a_number)),
        "shape": Hostility("its tensors have other shapes", _of_update(_another_shape)),
        "huge": Hostility("its update a thousandfold", _of_update(_scaled(1000.0))),
        "scaled": Hostility("its update tenfold", _of_update(_scaled(10.0))),
        "flipped": Hostility("its update with the sign changed", _of_update(_scaled(-1.0))),
        "flipped-5": Hostility("the same, five times as long", _of_update(_scaled(-5.0))),
        "labels": Hostility("trains on masks turned inside out", images=_flipped),
        "count": Hostility("claims twenty times its images", _lying_count(20)),
        "constant": _posing("prototypes that are all one", np.ones_like),
        "negated": _posing("prototypes negated", lambda vector: -vector),
        "exchanged": _posing("foreground as background", _exchanged),
        "far": _posing("prototypes a thousandfold", lambda vector: 1000 * vector),
    }
)
