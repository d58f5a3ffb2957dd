"""Runs the trials of a study, a process each, until they are done, the time is up or it is cut."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import torch

from fdfed.errors import FdfedError, InvalidInput
from fdfed.process.kept_memory import keep_freed_memory
from fdfed.studies.trials import Trial, TrialResult, folder_of, load_results, run_trial
from fdfed.studies.trials.phase_one import left_by, phase_1_key
from fdfed.training.device import resolve_device

Agenda = Callable[[Mapping[str, TrialResult]], Sequence[Trial]]
"""The trials that a study asks for next, given those that are done; the first are run first. Done
ones may be among them. A pure function, so a study that is started again goes on where it was."""

_LOOK_SECONDS: Final = 2.0


@runtime_checkable
class Watcher(Protocol):
    """Who is told how a study goes on."""

    def looked(
        self, running: Sequence[Trial], asked: Sequence[Trial], results: Mapping[str, TrialResult]
    ) -> None:
        """Every two seconds: what runs, all that is asked for so far, and what is done."""
        ...

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """A trial has its result."""
        ...


class TrialFailed(FdfedError):
    """A trial ended without a result; its log says why."""

    exit_code = 1


def run_agenda(
    agenda: Agenda,
    *,
    data: Path,
    out: Path,
    workers: int,
    device: str = "cpu",
    stop_after_seconds: float,
    watcher: Watcher,
) -> bool:
    """Runs what `agenda` asks for, `workers` trials at a time; True if it asks for nothing more.

    After `stop_after_seconds` no trial is begun, and those under way are finished. An interrupt
    ends them at once: each goes on after its last complete round when the study is started again.

    Args:
        device: as `resolve_device` takes it; the trials share a GPU.

    Raises:
        TrialFailed: if a trial ends without a result.
        InvalidInput: if another process works on `out`, or there is no such device.
    """
    # Here, so that the study ends before its first trial does.
    shelf = shelf_of(out, resolve_device(device))
    deadline = time.monotonic() + stop_after_seconds
    running: dict[str, tuple[Trial, BaseProcess]] = {}
    with sole_owner(out):
        results = load_results(out)
        asked = agenda(results)
        try:
            while True:
                open_trials = [t for t in asked if t.name not in results]
                waiting = [t for t in open_trials if t.name not in running]
                if time.monotonic() < deadline:
                    for trial in _without_waste(waiting, running, shelf)[: workers - len(running)]:
                        running[trial.name] = (trial, _start(trial, data, out, shelf, device))
                if not running:
                    return not open_trials
                watcher.looked([trial for trial, _ in running.values()], asked, results)
                wait([process.sentinel for _, process in running.values()], _LOOK_SECONDS)
                for trial in _collect(running, out):
                    results = load_results(out)
                    asked = agenda(results)
                    watcher.finished(trial, results[trial.name])
        finally:
            for _, process in running.values():
                process.terminate()
                process.join()


def shelf_of(out: Path, device: torch.device) -> Path:
    """Where the trials on a kind of device keep the phases 1 that they share: another kind rounds
    otherwise, and no trial is to be of two."""
    return out / ("phase-1" if device.type == "cpu" else f"phase-1-{device.type}")


def _without_waste(
    waiting: Sequence[Trial], running: Mapping[str, tuple[Trial, BaseProcess]], shelf: Path
) -> list[Trial]:
    """The waiting trials in their order, except that one whose phase 1 another is just training,
    and will leave on the shelf, comes after those that need not wait for it."""
    coming = {place for trial, _ in running.values() for place in _leaves(trial)}
    later: list[Trial] = []
    now: list[Trial] = []
    for trial in waiting:
        place = _takes(trial)
        if place in coming and not (shelf / place).exists():
            later.append(trial)
            continue
        now.append(trial)
        coming.update(_leaves(trial))
    return now + later


def _takes(trial: Trial) -> Path | None:
    """Where on the shelf the phase 1 lies that the trial can begin with."""
    key = phase_1_key(trial.plan)
    return None if key is None or trial.shelf is None else trial.shelf / key


def _leaves(trial: Trial) -> list[Path]:
    """Where the trial puts the phases 1 that it makes."""
    left = left_by(trial.plan)
    return [] if left is None or trial.shelf is None else [trial.shelf / key for key in left[0]]


def _start(trial: Trial, data: Path, out: Path, shelf: Path, device: str) -> BaseProcess:
    # A process for each trial: threads, memory and a crash of one cannot reach the next.
    process = _processes().Process(
        target=_work, args=(trial, data, folder_of(out, trial), shelf, device), daemon=True
    )
    process.start()
    return process


@cache
def _processes() -> ForkServerContext:
    """Where a trial's process comes from: forked from one that has imported all that a trial needs,
    which takes longer than a trial's first round, and has run none of it."""
    context = multiprocessing.get_context("forkserver")
    # PyTorch's optimisers import the compiler when the first of them is made.
    context.set_forkserver_preload(["fdfed.studies.trials", "torch._dynamo"])
    return context


def _collect(running: dict[str, tuple[Trial, BaseProcess]], out: Path) -> Iterator[Trial]:
    for name, (trial, process) in list(running.items()):
        if process.exitcode is None:
            continue
        del running[name]
        log = folder_of(out, trial) / "log.txt"
        if process.exitcode != 0:
            raise TrialFailed(
                f"the trial {trial.group} {trial.method} {trial.config} ended with exit code "
                f"{process.exitcode}; {log} says why. Solve it and start the study again: what is "
                "done is kept"
            )
        yield trial


def _work(trial: Trial, data: Path, folder: Path, shelf: Path, device: str) -> None:
    """The trial's process: one thread, so that results repeat; its output goes to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        threading.Thread(target=_end_with_parent, daemon=True).start()
        torch.set_num_threads(1)
        keep_freed_memory()
        try:
            run_trial(folder, trial, data, device=resolve_device(device), shelf=shelf)
        except BaseException:
            # Here: what Python says of it at the process's end would meet a closed file.
            traceback.print_exc(file=log)
            raise SystemExit(1) from None
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def _end_with_parent() -> None:
    """Ends this process when the study's own is gone, so that none trains on unseen."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


@contextlib.contextmanager
def sole_owner(out: Path) -> Iterator[None]:
    """Holds the folder of a study, which is made if needed, against a second process.

    Raises:
        InvalidInput: if another one holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise InvalidInput(
                f"another study is at work in {out}; wait for it, or give --out another folder"
            ) from err
        yield
