"""What may leave a hospital and what a coordinator may hold: weights, prototypes, counts and
aggregates; never a name, a pixel, or a number about one image."""

from __future__ import annotations

import base64
import json
import logging
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from PIL import Image

from fdfed.config import RunPlan
from fdfed.data import open_site
from fdfed.evaluation.aggregates import ImageScore
from fdfed.exchange import CotangentFrame, PrototypeFrame
from fdfed.simulation import Progress, simulate
from fdfed.simulation import run as simulation_run
from fdfed.simulation.grid import InProcessGrid
from fdfed.wire import EvaluateResult
from fdfed_client.site import Site
from fdfed_server.event_log import EventLog
from fdfed_server.in_process import InProcessExchange
from fdfed_server.observer import Several
from fdfed_server.outputs import write_run
from fdfed_server.rounds import RunOutcome
from fdfed_server.status import StatusWriter

SITES = ("north", "south")
IMAGES = {"north": 40, "south": 24}
CANARY = "zqxcanary"
TAPS = 9
PLAN = RunPlan(
    sites=SITES,
    width=4,
    size=32,
    rounds=3,
    steps_per_round=2,
    batch_size=4,
    augment=False,
    norm="batch",
    warm_start=True,
)


def picture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A noisy grey picture with a bright disc, whose rows occur nowhere else."""
    y, x = np.mgrid[:48, :48]
    radius, row, column = rng.uniform(6, 12), *rng.uniform(14, 34, 2)
    mask = (y - row) ** 2 + (x - column) ** 2 < radius**2
    image = np.clip(90 + 80 * mask + rng.normal(0, 25, mask.shape), 0, 255)
    return image.astype(np.uint8), mask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals whose file names and patients all carry the canary."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for site, images in IMAGES.items():
        for part in ("images", "masks"):
            (folder / site / part).mkdir(parents=True)
        rows = ["image,mask,patient"]
        for number in range(images):
            name = f"{CANARY}-image-{number}.png"
            image, mask = picture(rng)
            Image.fromarray(image).save(folder / site / "images" / name)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / site / "masks" / name)
            rows.append(f"{name},{name},{CANARY}-patient-{number}")
        (folder / site / "patients.csv").write_text("\n".join(rows))
    return folder


@dataclass
class Observed:
    """A federation, as a wiretap on the coordinator's side would know it."""

    coordinator: Path
    at_home: Path
    """Where the simulation keeps what in a deployment stays at the sites."""
    records: list[tuple[str, RecordDict]] = field(default_factory=list)
    """Site and content of every reply."""
    objects: list[bytes] = field(default_factory=list)
    """The bytes of every reply, object by object, as they cross the wire."""
    frames: list[PrototypeFrame] = field(default_factory=list)
    scores: list[ImageScore] = field(default_factory=list)
    """What the sites know of single images; nothing of it may be anywhere else."""
    log: str = ""

    @property
    def sent(self) -> list[bytes]:
        """Everything that left a site."""
        return [*self.objects, *(f.to_proto().SerializeToString() for f in self.frames)]

    @property
    def files(self) -> dict[str, bytes]:
        """Everything that the coordinator wrote."""
        paths = [path for path in self.coordinator.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.coordinator)): path.read_bytes() for path in paths}


def wiretap(observed: Observed, patch: pytest.MonkeyPatch) -> None:
    class TappedGrid(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            reply = super()._answer(message)
            nested = get_all_nested_objects(reply)
            observed.objects.extend(part.deflate() for part in nested.values())
            if reply.has_content():
                site = self._nodes[message.metadata.dst_node_id]
                observed.records.append((site, reply.content))
            return reply

    class TappedExchange(InProcessExchange):
        def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
            observed.frames.append(frame)
            return super().swap(frame)

    class TappedSite(Site):
        def score(self, part: Any) -> tuple[ImageScore, ...]:
            scores = super().score(part)
            observed.scores.extend(scores)
            return scores

    patch.setattr(simulation_run, "InProcessGrid", TappedGrid)
    patch.setattr(simulation_run, "InProcessExchange", TappedExchange)
    patch.setattr(simulation_run, "Site", TappedSite)


def federation(plan: RunPlan, data: Path, folder: Path) -> Observed:
    """Runs the plan; the coordinator's part of what is written goes to a folder of its own, in the
    layout of a deployment."""
    observed = Observed(folder / "coordinator", folder / "simulation")
    outcomes: list[RunOutcome] = []
    with pytest.MonkeyPatch.context() as patch, StatusWriter(observed.coordinator, list) as status:
        wiretap(observed, patch)
        original = simulation_run.results_of

        def kept(outcome: RunOutcome, **options: Any) -> Any:
            outcomes.append(outcome)
            return original(outcome, **options)

        patch.setattr(simulation_run, "results_of", kept)
        progress = Progress(observer=Several([status, EventLog()]))
        results = simulate(plan, data=data, out=folder / "simulation", progress=progress)
    write_run(observed.coordinator / "results", outcomes[0], results)
    (folder / "simulation" / "state" / "run").rename(observed.coordinator / "run")
    return observed


@pytest.fixture(scope="module")
def observed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines()
    logger = logging.getLogger("fdfed_server")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        found = federation(PLAN, data, tmp_path_factory.mktemp("run"))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    found.log = "\n".join(lines)
    return found


def everything(observed: Observed) -> dict[str, bytes]:
    sent = {f"message {number}": data for number, data in enumerate(observed.sent)}
    return sent | observed.files | {"the log": observed.log.encode()}


def test_the_wiretap_hears_all_kinds_of_messages(observed: Observed) -> None:
    kinds = {str(record["fdfed"]["kind"]) for _, record in observed.records}  # type: ignore[index]
    assert kinds == {"prepared", "trained", "evaluated"}
    assert len(observed.frames) == len(SITES) * PLAN.steps_per_round  # one round of phase 2
    assert set(observed.files) >= {
        *("status.json", "run/state.json", "results/results.json", "results/rounds.csv"),
        *("results/report.html", "results/model.safetensors"),
    }
    assert len(observed.scores) > 20
    assert "round 3 is complete" in observed.log


def test_no_name_of_a_file_or_patient_leaves_a_site(observed: Observed) -> None:
    for place, content in everything(observed).items():
        assert CANARY.encode() not in content.lower(), place
        assert base64.b64encode(CANARY.encode())[:-2] not in content, place


def singular_scores(observed: Observed) -> set[float]:
    """Dice and IoU of single images; 0 and 1 can be those of an aggregate too."""
    values = {value for score in observed.scores for value in (score.dice, score.iou)}
    return {value for value in values if 0 < value < 1}


def test_the_same_search_finds_what_a_site_keeps_for_itself(observed: Observed) -> None:
    at_home = (observed.at_home / "images.csv").read_text()
    assert CANARY in at_home
    assert sum(repr(value) in at_home for value in singular_scores(observed)) > 20


def pixel_rows(data: Path) -> list[bytes]:
    """Rows of every image: as bytes in its file, and as the tensors that a site computes with."""
    rows = []
    for site in SITES:
        for path in sorted((data / site / "images").iterdir()):
            rows.append(np.asarray(Image.open(path))[24].tobytes())
        images = open_site(site, data, size=32, in_channels=3, seed=0, batch_size=4)
        for part in ("validation", "test"):
            for image, _, _ in images.evaluation_batches(part):
                rows += [row.numpy().tobytes() for row in image[:, 0, 16]]
    return rows


def test_no_row_of_pixels_leaves_a_site(observed: Observed, data: Path) -> None:
    rows = pixel_rows(data)
    assert len(rows) > 70
    for place, content in everything(observed).items():
        for row in rows:
            assert row not in content, place


def test_the_coordinators_files_hold_no_picture_of_a_case(observed: Observed) -> None:
    report = observed.files["results/report.html"].decode()
    assert "<svg" in report or "data:image" in report  # there are charts
    assert "images.csv" not in observed.files
    document = json.loads(observed.files["results/results.json"])
    assert "per_image" not in document


def test_no_score_of_a_single_image_leaves_a_site(observed: Observed) -> None:
    singular = singular_scores(observed)
    for place, content in everything(observed).items():
        if place.endswith(".safetensors"):
            continue
        text = content.decode("utf-8", errors="ignore")
        for value in singular:
            assert repr(value) not in text, (place, value)
            assert struct.pack("<d", value) not in content, (place, value)


def test_no_record_has_a_row_or_a_column_for_each_image(observed: Observed) -> None:
    for _, record in observed.records:
        assert set(record) <= {"fdfed", "vectors", "weights"}
        arrays = record.get("vectors", ArrayRecord())
        for name, array in arrays.items():  # type: ignore[union-attr]
            # One entry a tap, or the seven numbers of an aggregate.
            expected = (7,) if name in ("dice", "iou") else (TAPS,)
            assert array.shape == list(expected) or tuple(array.shape) == expected, name


def test_a_frame_is_of_one_size_whatever_the_batch(observed: Observed) -> None:
    assert len({frame.vector.shape for frame in observed.frames}) == 1
    assert {frame.valid.shape for frame in observed.frames} == {(TAPS,)}


def test_aggregates_of_fewer_images_than_the_minimum_count_are_withheld_everywhere(
    data: Path, tmp_path: Path
) -> None:
    # north has 40 images (4 validate, 8 test), south has 24 (2 and 5).
    plan = PLAN.model_copy(update={"min_count": 6, "rounds": 2})
    observed = federation(plan, data, tmp_path)
    answers = [
        (site, EvaluateResult.from_record(record))
        for site, record in observed.records
        if record["fdfed"]["kind"] == "evaluated"  # type: ignore[index]
    ]
    given = {(site, answer.part) for site, answer in answers if answer.dice is not None}
    assert given == {("north", "test")}
    document = json.loads(observed.files["results/results.json"])
    assert document["sites"]["north"]["dice"] is not None
    assert {key for key, value in document["sites"]["south"].items() if value is not None} == {
        *("n_train", "n_val", "n_test")
    }
    for entry in document["rounds"]:
        assert all(site["val_dice"] is None for site in entry["sites"].values())
    assert document["privacy"]["min_count"] == 6
