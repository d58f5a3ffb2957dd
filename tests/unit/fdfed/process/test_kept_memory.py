"""A process that trains does not ask the system for the same memory in every step."""

from __future__ import annotations

import ast
import ctypes
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fdfed.cli.simulate import simulate
from fdfed.cli.study import study
from fdfed.process.kept_memory import keep_freed_memory
from fdfed.studies import schedule
from fdfed_client.cli.main import agent

_STEPS = """
import resource, torch
from fdfed.process.kept_memory import keep_freed_memory
{begin}
torch.set_num_threads(1)
channels = (3, 16, 16, 16, 1)
network = torch.nn.Sequential(
    *(torch.nn.Conv2d(a, b, 3, padding=1) for a, b in zip(channels, channels[1:]))
)
image = torch.ones(8, 3, 64, 64)
def step():
    network(image).mean().backward()
step(); step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(begin: str) -> int:
    # A process of its own: the setting cannot be taken back. Nor may the environment have made it.
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    run = subprocess.run(
        [sys.executable, "-c", _STEPS.format(begin=begin)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_steps_after_the_first_find_their_memory_where_the_last_one_left_it() -> None:
    # A map of 16 channels has 512 pages; a step makes some ten of them. The allocator may still
    # grow by one or two maps after the steps that are not counted.
    assert page_faults("assert keep_freed_memory()") * 10 < page_faults("")


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False


@pytest.mark.parametrize(
    "begin", [simulate, study, schedule._work, agent], ids=lambda f: f.__name__
)
def test_whatever_trains_begins_with_it(begin: Callable[..., Any]) -> None:
    # The call alone: what it does to a process is tested above, and cannot be taken back here.
    body = ast.walk(ast.parse(inspect.getsource(begin)))
    called = [n.func.id for n in body if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "keep_freed_memory" in called
