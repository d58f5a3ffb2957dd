"""What a hospital's agent measures, for the hospital's own Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from fdfed import __version__
from fdfed.evaluation.joining import Joining
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_client.site import Site

_SWAP_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5, 30)


class AgentMetrics:
    """Follows an agent. Labels are the network's taps, the kinds of the audit log and the rules of
    the site: all bounded, and nothing of an image, a patient or a file is in any of them."""

    def __init__(self, registry: CollectorRegistry, *, site: str) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fdfed_agent_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fdfed_agent_{name}", text, labels, registry=registry)

        Info("fdfed_agent", "Which site's agent this is.", registry=registry).info(
            {"site": site, "version": __version__}
        )
        self._round = gauge("round", "The round that is trained, or was last.")
        self._step = gauge("round_step", "Steps of it that are done.")
        self._steps = gauge("round_steps", "Steps that it has.")
        self._done = counter("steps", "Training steps since the agent began.")
        self._seconds = gauge("training_seconds", "Time of the last training round.")
        self._seg = gauge("segmentation_loss", "Mean L_seg of the last round.")
        self._fd = gauge("discrepancy_loss", "Mean L_fd of the last round (Eq. 1), in nats.", "tap")
        self._alpha = gauge("alpha", "Weight α of the last round.", "tap")
        self._dice = gauge(
            "dice", "Mean Dice over the images of a part, of the model scored last.", "part"
        )
        self._gain = gauge(
            "joining_gain_dice",
            "Test Dice of the federation's model less that of the one trained here alone, last "
            "run, with its 95 % interval.",
            "value",
        )
        self._exchanged = counter(
            "exchange_steps",
            "Steps that sent prototypes, by whether cotangents were used.",
            "outcome",
        )
        self._peers = gauge("exchange_peers", "Mean peers behind an answer, last round.")
        self._staleness = gauge(
            "exchange_staleness_steps", "Mean steps by which an answer was late, last round."
        )
        self._swap = Histogram(
            "fdfed_agent_swap_seconds",
            "Time that a step waited for its cotangents.",
            buckets=_SWAP_SECONDS,
            registry=registry,
        )
        self._messages = counter(
            "messages", "Lines of the audit log about what crossed.", "direction", "kind"
        )
        self._bytes = counter("bytes", "Bytes that crossed.", "direction", "kind")
        self._held_back = counter(
            "held_back",
            "What the site's own rules kept from leaving or from being trained.",
            "rule",
        )
        self._heard = gauge(
            "last_message_timestamp_seconds", "When the coordinator's last message came, Unix time."
        )
        self._gpu = gauge("gpu_memory_bytes", "Memory that PyTorch holds on the GPU; 0 on a CPU.")
        self._gpu.set_function(_gpu_bytes)
        for outcome in ("answered", "dropped"):
            self._exchanged.labels(outcome)

    def step_done(self, server_round: int, done: int, total: int) -> None:
        """A step of the training is done."""
        self._round.set(server_round)
        self._step.set(done)
        self._steps.set(total)
        self._done.inc()

    def swapped(self, seconds: float) -> None:
        """A step had its cotangents after so long."""
        self._swap.observe(seconds)

    def noted(self, line: Mapping[str, Any]) -> None:
        """A line of the audit log is on disk."""
        direction, kind = line["direction"], line["kind"]
        if direction == "here":
            return
        if line.get("decision") == "refused":
            self._held_back.labels(line.get("rule", "rate")).inc(line.get("frames", 1))
            return
        # The frames of a round have one line as they begin, which counts nothing yet.
        if line.get("state") != "begun":
            self._messages.labels(direction, kind).inc()
            self._bytes.labels(direction, kind).inc(line.get("bytes", 0))
        if direction == "in":
            self._heard.set(time.time())

    def joined(self, joining: Joining) -> None:
        """The site knows whether joining helped it."""
        found = {"mean": joining.gain, "low": joining.low, "high": joining.high}
        for value, dice in found.items():
            self._gain.labels(value).set(math.nan if dice is None else dice)

    def answered(self, site: Site, result: TrainResult | EvaluateResult) -> None:
        """The site has trained or scored, and is about to say so."""
        if isinstance(result, EvaluateResult):
            if result.dice is not None:
                self._dice.labels(result.part).set(result.dice.mean)
            return
        self._seconds.set(result.seconds)
        self._seg.set(result.loss_seg)
        for tap, alpha, fd in zip(site.network.tap_names, site.alpha, result.fd, strict=True):
            self._alpha.labels(tap).set(alpha)
            self._fd.labels(tap).set(fd)
        stats = result.exchange
        self._exchanged.labels("answered").inc(stats.answered)
        self._exchanged.labels("dropped").inc(stats.dropped)
        self._peers.set(stats.peers_mean)
        self._staleness.set(stats.staleness_mean)


def _gpu_bytes() -> float:
    return float(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0.0
