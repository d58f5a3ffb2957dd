"""The local model of an agent's site, trained while the coordinator asks for nothing.

No other hospital waits for it: a step begins only while the site does not work for the federation,
so that one of the federation is delayed by one step of its own at most. What is left when the run
ends is trained then. The answer, whether joining helped, is for the site alone.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from fdfed.data import SplitCounts
from fdfed.evaluation.joining import answer
from fdfed.networks import SegmentationNetwork
from fdfed.wire import EvaluateResult, Part, TrainResult
from fdfed_client.joining import JoiningAnswer, answer_for, training_alone
from fdfed_client.local_model import Images, LocalModel
from fdfed_client.site import Site

log = logging.getLogger(__name__)


class _Ended(Exception):
    """The agent stops, or works for another run; what was trained is on disk."""


class LocalBaseline:
    """Trains a run's local model beside the run, and compares the two when it ends.

    Args:
        folder: of its records; they belong to one run.
        told: given the site's name, the run and the answer, in a thread of its own.
    """

    def __init__(self, folder: Path, *, told: Callable[[str, str, JoiningAnswer], None]) -> None:
        self._folder = folder
        self._told = told
        self._turns = threading.Condition()
        self._at_work = 0
        self._job: _Job | None = None

    @contextmanager
    def site_at_work(self) -> Iterator[None]:
        """Around what the site does for the federation: no step of the baseline begins in it."""
        with self._turns:
            self._at_work += 1
        try:
            yield
        finally:
            with self._turns:
                self._at_work -= 1
                self._turns.notify_all()

    def answered(self, site: Site, result: TrainResult | EvaluateResult) -> None:
        """Follows the site's results: a new run begins a new baseline, its test ends the run."""
        if self._job is None or self._job.run_id != result.run_id:
            self.close()
            if site.plan.strategy in ("local", "pooled"):
                log.warning(
                    "strategy = %s: nobody joins, so nothing is compared", site.plan.strategy
                )
                return
            self._job = _Job(site.name, site.model, result.run_id)
            self._job.thread = threading.Thread(
                target=self._work, args=(self._job,), name="local baseline", daemon=True
            )
            self._job.thread.start()
        if isinstance(result, EvaluateResult) and result.part == "test":
            with self._turns:
                # A copy: the site goes on to load other weights into its own.
                self._job.shared = copy.deepcopy(site.network)
                self._turns.notify_all()

    def wait(self, timeout: float) -> bool:
        """Whether the answer to the run is there within `timeout` seconds."""
        job = self._job
        if job is None or job.thread is None:
            return False
        job.thread.join(timeout)
        return not job.thread.is_alive()

    def close(self) -> None:
        """Ends the training after its current step, and says if it had not answered yet."""
        job, self._job = self._job, None
        if job is None or job.thread is None:
            return
        with self._turns:
            unfinished = not job.done
            job.ended = True
            self._turns.notify_all()
        job.thread.join()
        if unfinished:
            log.warning(
                "whether joining run %s helped is not answered: the local model was still in "
                "training. An agent that is started again while that run goes on, goes on with it",
                job.run_id,
            )

    def _work(self, job: _Job) -> None:
        plan = job.model.local_plan
        images = _InTurn(job.model.images, lambda: self._wait(job))
        try:
            alone = training_alone(
                job.site,
                plan,
                images,
                folder=self._folder,
                run_id=job.run_id,
                device=next(job.model.network.parameters()).device,
            )
            while not alone.done:
                alone.train_round()
            found = answer_for(job.site, plan, images, self._shared(job), alone)
            job.done = True
            log.info("%s", answer(job.site, found.joining))
            self._told(job.site, job.run_id, found)
        except _Ended:
            return
        # A comparison that fails must not take the agent with it.
        except Exception:
            job.done = True
            log.exception("the local model of run %s could not be compared", job.run_id)

    def _wait(self, job: _Job) -> None:
        with self._turns:
            self._turns.wait_for(lambda: job.ended or self._at_work == 0)
            if job.ended:
                raise _Ended

    def _shared(self, job: _Job) -> SegmentationNetwork:
        with self._turns:
            self._turns.wait_for(lambda: job.ended or job.shared is not None)
            if job.shared is None:
                raise _Ended
            return job.shared


class _Job:
    """The baseline of one run."""

    def __init__(self, site: str, model: LocalModel, run_id: str) -> None:
        self.site = site
        self.model = model
        self.run_id = run_id
        self.shared: SegmentationNetwork | None = None
        """The federation's final model as the site scored it."""
        self.thread: threading.Thread | None = None
        self.ended = False
        """Nobody waits for the answer any more."""
        self.done = False
        """It was found, or cannot be."""


class _InTurn:
    """Images that come when it is their reader's turn."""

    def __init__(self, images: Images, wait: Callable[[], None]) -> None:
        self._images = images
        self._wait = wait

    @property
    def phantoms(self) -> bool:
        return self._images.phantoms

    @property
    def counts(self) -> SplitCounts:
        return self._images.counts

    @property
    def patients_known(self) -> bool:
        return self._images.patients_known

    def patients_of(self, part: Part) -> Mapping[str, str]:
        return self._images.patients_of(part)

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        self._wait()
        return self._images.training_batch(global_step)

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return self._images.training_patients(global_step)

    def evaluation_batches(self, part: Part) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        for batch in self._images.evaluation_batches(part):
            self._wait()
            yield batch
