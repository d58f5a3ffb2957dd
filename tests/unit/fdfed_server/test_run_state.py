"""The state of a run on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord, SiteRound, TapLoss, Traffic
from fdfed.exchange import ExchangeStats
from fdfed_server import run_state
from fdfed_server.run_state import (
    UNKNOWN_SCORE,
    Best,
    GlobalModel,
    RunState,
    load_state,
    resume,
    save_state,
)

PLAN = RunPlan(sites=("a", "b"), rounds=5)


def model(value: float, *, target: bool = True) -> GlobalModel:
    return GlobalModel(
        weights={
            "conv.weight": np.full((2, 3), value, dtype=np.float32),
            "norm.num_batches_tracked": np.array(int(value), dtype=np.int64),
        },
        alpha=np.array([0.0, value]),
        target=np.array([np.nan, value]) if target else None,
        memory={"weights.speed": np.full(2, value), "count": np.array(7)} if target else {},
    )


def record(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        phase=1,
        attempt=2,
        sites={
            "a": SiteRound(loss_seg=0.1 + number, val_dice=1 / 3, num_examples=10, drift=0.25),
            "b": SiteRound(refused="the reply answers another round"),
        },
        alpha={"Enc1": 0.0, "Bot": 0.01},
        losses={"Enc1": TapLoss(fd=1.5), "Bot": TapLoss(fd=0.5, exch=0.25)},
        seconds=1.5,
        bytes=Traffic(up=10, down=20),
        drift=0.5,
    )


def state_of(rounds: int, *, best: int | None = None) -> RunState:
    chosen = rounds if best is None else best
    return RunState(
        plan=PLAN,
        run_id="ab" * 8,
        completed_rounds=rounds,
        model=model(rounds),
        best=Best(server_round=chosen, score=0.1 * chosen, model=model(chosen, target=False)),
        site_best={"a": (chosen, 1 / 3)},
        history=tuple(record(n) for n in range(1, rounds + 1)),
        exchanges=(ExchangeStats(steps=4, answered=3, dropped=1, peers_mean=1.0, swap_ms_p50=0.7),),
        seconds=12.5,
        warm_start_round=2,
    )


def assert_same(got: RunState | None, expected: RunState) -> None:
    assert got is not None
    for one, other in ((got.model, expected.model), (got.best.model, expected.best.model)):
        assert set(one.weights) == set(other.weights)
        for name, value in other.weights.items():
            assert one.weights[name].dtype == value.dtype
            assert one.weights[name].shape == value.shape
            assert one.weights[name].tobytes() == value.tobytes()
        assert set(one.memory) == set(other.memory)
        for name, value in other.memory.items():
            assert (one.memory[name].dtype, one.memory[name].shape) == (value.dtype, value.shape)
            assert one.memory[name].tobytes() == value.tobytes()
        np.testing.assert_array_equal(one.alpha, other.alpha)
        assert (one.target is None) == (other.target is None)
        if other.target is not None:
            np.testing.assert_array_equal(one.target, other.target)
    nothing = GlobalModel(weights={}, alpha=np.zeros(0))
    blank = {"model": nothing, "best": replace(expected.best, model=nothing)}
    assert replace(got, **{**blank, "best": replace(got.best, model=nothing)}) == replace(
        expected, **blank
    )


@pytest.mark.parametrize("best", [1, 3])
def test_a_state_comes_back_as_it_was_saved(tmp_path: Path, best: int) -> None:
    for rounds in (1, 2, 3):
        save_state(tmp_path, state_of(rounds, best=min(best, rounds)))
    assert_same(load_state(tmp_path), state_of(3, best=min(best, 3)))


def test_a_state_can_be_saved_into_another_folder(tmp_path: Path) -> None:
    save_state(tmp_path, state_of(3, best=1))
    assert_same(load_state(tmp_path), state_of(3, best=1))


def test_the_state_before_the_first_round_comes_back(tmp_path: Path) -> None:
    state = replace(
        state_of(0),
        history=(),
        exchanges=(),
        site_best={},
        warm_start_round=None,
        best=Best(server_round=0, score=UNKNOWN_SCORE, model=model(0)),
    )
    save_state(tmp_path, state)
    assert_same(load_state(tmp_path), state)


def test_an_empty_folder_holds_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "missing") is None
    assert resume(tmp_path, PLAN) is None


def test_only_the_files_of_the_last_round_and_of_the_best_stay(tmp_path: Path) -> None:
    for rounds in range(1, 5):
        save_state(tmp_path, state_of(rounds, best=min(2, rounds)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best-000002.safetensors", "round-000004.safetensors", "state.json"]


class Killed(BaseException):
    """The process ends here."""


def writes_of(save: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *, after: int) -> int:
    """Runs `save`, which is killed before its write number `after`; the writes it made."""
    made = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            if made == after:
                raise Killed
            made += 1
            return original(*args, **kwargs)

        return write

    with monkeypatch.context() as patch:
        for name in ("replacing", "write_text"):
            patch.setattr(run_state, name, counted(getattr(run_state, name)))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        save()
    return made


@pytest.mark.parametrize("best", [2, 3])
def test_killed_at_any_write_the_folder_holds_one_round_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    before, after = state_of(2), state_of(3, best=best)
    save_state(tmp_path / "whole", before)
    writes = writes_of(lambda: save_state(tmp_path / "whole", after), monkeypatch, after=10**9)
    assert writes >= 3
    seen = []
    for stop in range(writes):
        folder = tmp_path / str(stop)
        save_state(folder, before)
        with pytest.raises(Killed):
            writes_of(lambda f=folder: save_state(f, after), monkeypatch, after=stop)
        got = load_state(folder)
        assert got is not None
        seen.append(got.completed_rounds)
        assert_same(got, before if got.completed_rounds == 2 else after)
        # What was half done does not stand in the way of the repetition.
        save_state(folder, after)
        assert_same(load_state(folder), after)
    assert seen == sorted(seen)
    assert seen[0] == 2


def test_a_model_cut_off_while_it_is_written_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, state_of(2))

    def cut(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_state.safetensors.numpy, "save_file", cut)
        with pytest.raises(Killed):
            save_state(tmp_path, state_of(3))
    assert_same(load_state(tmp_path), state_of(2))


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "state.json").read_text())


def write_document(folder: Path, content: Any) -> None:
    (folder / "state.json").write_text(json.dumps(content))


def test_a_newer_format_is_refused_and_never_guessed_at(tmp_path: Path) -> None:
    save_state(tmp_path, state_of(2))
    # Whatever a later version changed beside the number.
    write_document(tmp_path, {"format": 2, "rounds": "other"})
    with pytest.raises(InvalidInput, match="has format 2; this version reads up to 1"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f: (f / "state.json").write_bytes(b"{"), id="cut JSON"),
        pytest.param(lambda f: (f / "state.json").write_bytes(b"\xff\xfe"), id="no text"),
        pytest.param(lambda f: write_document(f, []), id="a list"),
        pytest.param(lambda f: write_document(f, {}), id="nothing in it"),
        pytest.param(lambda f: (f / "state.json").write_bytes(b"[" * 100_000), id="deep"),
        pytest.param(lambda f: (f / "round-000002.safetensors").unlink(), id="no model"),
        pytest.param(
            lambda f: (f / "round-000002.safetensors").write_bytes(b"half"), id="half a model"
        ),
        pytest.param(
            lambda f: run_state.safetensors.numpy.save_file(
                {"x": np.zeros(1)}, f / "round-000002.safetensors"
            ),
            id="another file",
        ),
    ],
)
def test_a_damaged_folder_is_refused_with_what_to_do(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save_state(tmp_path, state_of(2))
    damage(tmp_path)
    with pytest.raises(InvalidInput, match=r"damaged run state .*with another folder") as err:
        load_state(tmp_path)
    assert err.value.exit_code == 2


JUNK = st.sampled_from([None, "x", -1, [], {}, [[]], {"a": 1}, 1e300, True])


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), junk=JUNK)
def test_whatever_stands_in_the_document_is_read_or_refused(
    tmp_path: Path, data: st.DataObject, junk: Any
) -> None:
    save_state(tmp_path, state_of(2))
    content = document(tmp_path)
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            place[key] = junk
            break
        place = inner
    write_document(tmp_path, content)
    # Any other exception would end the command with a traceback.
    with contextlib.suppress(InvalidInput):
        load_state(tmp_path)


def test_a_run_of_another_plan_is_refused_by_the_names_of_what_differs(tmp_path: Path) -> None:
    save_state(tmp_path, state_of(2))
    other = PLAN.model_copy(update={"seed": 1, "rounds": 9})
    with pytest.raises(InvalidInput, match=r"another run \(it differs in rounds, seed\)"):
        resume(tmp_path, other)
    assert_same(resume(tmp_path, PLAN), state_of(2))


def test_a_run_goes_on_with_the_sites_that_its_plan_names_now(tmp_path: Path) -> None:
    save_state(tmp_path, state_of(2))
    grown = PLAN.model_copy(update={"sites": (*PLAN.sites, "newcomer")})
    found = resume(tmp_path, grown)
    assert found is not None
    assert found.plan == grown
    assert_same(replace(found, plan=PLAN), state_of(2))
    with pytest.raises(InvalidInput, match=r"differs in sites, seed"):
        resume(tmp_path, grown.model_copy(update={"seed": 1}))


def test_the_best_record_is_that_of_the_best_round_once_it_has_a_score() -> None:
    state = state_of(3, best=2)
    assert state.best_record == record(2)
    unknown = replace(state, best=replace(state.best, score=UNKNOWN_SCORE))
    assert unknown.best_record is None
