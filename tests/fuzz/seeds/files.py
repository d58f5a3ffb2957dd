"""Seeds of plans, settings, models, states and results; of requests' heads."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from fdfed.evaluation import write_results
from fdfed.evaluation.results import ImageRow, RoundRecord, RunResults, SiteResult, SiteRound
from fdfed.networks import create_network
from fdfed.training.model_file import ModelHeader
from fdfed_server.flower.surface import control_token
from fdfed_server.run_state import Best, GlobalModel, RunState, save_state
from fdfed_server.status import SiteStatus, Status
from tests.fuzz.parties import PLAN, RUN
from tests.fuzz.seeds.kinds import Seeds
from tests.fuzz.target import scratch

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}


def files() -> Seeds:
    """Plans, settings, models, states, results."""
    yield "plan", "plan", PLAN.to_json().encode()
    yield "plan", "preset", b'{"preset": "paper", "alpha": {"rate": 0.1}}'
    yield "settings", "site", b'site = "ad"\nserver = "h"\nmin_sites = 3\nstate = "s"\n'
    yield "settings", "federation", b'[server]\nhosts = ["h"]\n[run]\nsites = ["ad"]\nrounds = 3\n'
    network = create_network("unet", in_channels=1, width=1, norm="group", size=32)
    header = ModelHeader(
        network="unet", width=1, norm="group", in_channels=1, size=32, taps=network.tap_names
    )
    tensors = {name: torch.zeros_like(t) for name, t in network.state_dict().items()}
    metadata = {"fdfed": header.model_dump_json()}
    yield "model-file", "unet", safetensors.torch.save(tensors, metadata=metadata)
    one = {"w": torch.zeros(2)}
    yield "model-file", "no-header", safetensors.torch.save(one)
    yield "model-file", "wrong-weights", safetensors.torch.save(one, metadata=metadata)
    record = {"local.a": torch.zeros(2, 2), "optimizer.b": torch.zeros(2, dtype=torch.int64)}
    yield "site-state", "record", safetensors.torch.save(record, metadata={"phase": "2"})
    yield "site-state", "no-phase", safetensors.torch.save(record)
    yield "status", "status", _status()
    yield "results", "results", _results()
    yield "run-state", "state", _run_state()
    yield "marker", "marker", b'{"seed": 1, "images": 4}'


def _status() -> bytes:
    sites = {"ad": SiteStatus(online=True, num_train=5, val_dice=0.5)}
    return json.dumps(asdict(Status(pid=1, time=1.0, activity="finished", sites=sites))).encode()


def _rounds() -> tuple[RoundRecord, ...]:
    return (RoundRecord(round=1, phase=1, sites={"ad": SiteRound(loss_seg=1.5)}, seconds=2.5),)


def _results() -> bytes:
    results = RunResults(
        sites={"ad": SiteResult(dice=0.5, iou=0.3, n_train=7, n_val=1, n_test=2)},
        rounds=_rounds(),
        alpha={"Bot": 0.01},
        config=PLAN.model_dump(mode="json"),
        versions={"python": "3.11"},
    )
    row = ImageRow(site="ad", name="a", dice=0.5, iou=0.3, foreground_pixels=3, empty=False)
    with scratch() as folder:
        write_results(folder / "results.json", results, per_image=[row])
        return json.dumps(json.loads((folder / "results.json").read_bytes())).encode()


def _run_state() -> bytes:
    model = GlobalModel(weights=TENSORS, alpha=np.zeros(2), target=np.ones(2))
    best = Best(server_round=1, score=0.5, model=model)
    state = RunState(
        plan=PLAN, run_id=RUN, completed_rounds=1, model=model, best=best, history=_rounds()
    )
    with scratch() as folder:
        save_state(folder, state)
        document = json.loads((folder / "state.json").read_bytes())
        tensors = (folder / document["model_file"]).read_bytes()
    document["model_file"] = document["best_file"] = "t"
    return json.dumps(document).encode() + b"\n" + tensors


def surface() -> Seeds:
    """Heads of requests."""
    yield "doors", "health", b"GET\n/health\n"
    yield "doors", "push", b"POST\n/v1/fleet/push-object\ncontent-length:100\n"
    yield "doors", "chunked", b"POST\n/v1/fleet/push-object\ntransfer-encoding:chunked\n"
    yield "doors", "other", b"POST\n/v1/control/start-run\ncontent-length:1\n"
    token = control_token(b"s" * 32).encode()
    yield "doors", "control", b"POST\n/v1/control/start-run\nx-fdfed-control:" + token
