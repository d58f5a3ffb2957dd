"""The sham exchange: a cross-site term that carries nothing of what the two sites are at that step.

A site sends its prototypes and is answered as in `fdfed`; it then trains with a cotangent of the
round before, of another step (a permutation of the round's steps) and of another site (the next in
the plan's order). Sizes, taps, α and steps stay what they were. What is left of the term is what
all its cotangents have in common.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fdfed.data.seeds import generator
from fdfed.exchange import CotangentFrame, Exchange, ExchangeStats, PrototypeFrame
from fdfed.files.atomic_file import replacing

Vectors = dict[int, NDArray[Any]]
"""A round's cotangents of one site, by step."""


class Sham:
    """Keeps every site's cotangents of a round for the next one, also on disk: a run that was cut
    goes on with the same.

    Args:
        sites: in the plan's order.
        seed: of the permutations.
        folder: keeps the newest two rounds.
    """

    def __init__(self, sites: Sequence[str], *, seed: int, folder: Path) -> None:
        self._sites = tuple(sites)
        self._seed = seed
        self._folder = folder
        self._lock = threading.Lock()

    def around(self, site: str, exchange: Exchange) -> Exchange:
        """The exchange of one site, whose cotangents are exchanged for others."""
        return _Shammed(site, exchange, self)

    def keep(self, site: str, server_round: int, vectors: Vectors) -> None:
        """Takes a site's cotangents of a whole round, or of so much of it as there is."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._lock, replacing(self._path(site, server_round)) as part:
            save_file({str(step): vector for step, vector in vectors.items()}, part)
        self._path(site, server_round - 2).unlink(missing_ok=True)

    def of_round_before(self, site: str, server_round: int) -> Vectors:
        """The cotangents that `site` trains with in a round, by step: those of the next site in the
        round before, permuted. Empty in the first round, which has none before it."""
        other = self._sites[(self._sites.index(site) + 1) % len(self._sites)]
        path = self._path(other, server_round - 1)
        if not path.exists():
            return {}
        kept = {int(step): vector for step, vector in load_file(path).items()}
        order = generator("sham", self._seed, site, server_round).permutation(len(kept))
        steps = sorted(kept)
        return {step: kept[steps[place]] for step, place in zip(steps, order, strict=True)}

    def _path(self, site: str, server_round: int) -> Path:
        return self._folder / f"{site}-{server_round:06d}.safetensors"


class _Shammed:
    """An exchange that answers with what it was answered in another place."""

    def __init__(self, site: str, inner: Exchange, sham: Sham) -> None:
        self._site = site
        self._inner = inner
        self._sham = sham
        self._vectors: Vectors = {}
        self._instead: Vectors | None = None

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        reply = self._inner.swap(frame)
        if reply is None:
            return None
        key = frame.key
        if self._instead is None:
            self._instead = self._sham.of_round_before(self._site, key.server_round)
        self._vectors[key.step] = np.array(reply.vector)
        self._sham.keep(self._site, key.server_round, self._vectors)
        # A step that had no reply a round ago has none to train with.
        other = self._instead.get(key.step, np.zeros_like(reply.vector))
        return replace(reply, vector=other)

    def take_stats(self) -> ExchangeStats:
        return self._inner.take_stats()

    def close(self) -> None:
        self._inner.close()
