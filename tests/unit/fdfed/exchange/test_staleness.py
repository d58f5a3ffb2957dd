import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.exchange import (
    CotangentFrame,
    ModelledDelay,
    NewestReply,
    StepKey,
    is_usable,
    staleness,
)
from fdfed.losses import exchange_cotangents


def key(step: int, *, server_round: int = 1, attempt: int = 0, run: str = "run") -> StepKey:
    return StepKey(run, server_round, attempt, step)


def reply(step: int, **other: int) -> CotangentFrame:
    return CotangentFrame(key(step, **other), np.zeros(2), np.zeros(1), np.zeros(1), 1)  # type: ignore[arg-type]


def gap_and_cotangent(
    foreground: torch.Tensor, background: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """z = (F_s - B_t, F_t - B_s) of two sites, and ∂L/∂z = (∂L/∂F_s, -∂L/∂B_s) as our code gives
    it to the first site."""
    _, dF, dB = exchange_cotangents(foreground, background, torch.ones(2).bool(), eps=1e-300)
    z = torch.cat([foreground[0] - background[1], foreground[1] - background[0]])
    return z.numpy(), torch.cat([dF[0], -dB[0]]).numpy()


def test_the_cotangent_of_a_stale_gap_is_off_by_the_amount_worked_by_hand() -> None:
    # g = -2 z / |z|². z = (3, 4): |z|² = 25, g = (-0.24, -0.32). z' = (0, 10): |z'|² = 100,
    # g' = (0, -0.2). g' - g = (0.24, 0.12), of length √0.072 = 0.26833.
    # |z' - z| = |(-3, 6)| = √45, and 2 √45 / (5 · 10) = 0.26833.
    z, g = gap_and_cotangent(torch.tensor([[3.0], [4.0]]).double(), torch.zeros(2, 1).double())
    stale_z, stale_g = gap_and_cotangent(
        torch.tensor([[0.0], [10.0]]).double(), torch.zeros(2, 1).double()
    )
    np.testing.assert_allclose(g, [-0.24, -0.32], rtol=1e-12)
    np.testing.assert_allclose(stale_g, [0.0, -0.2], rtol=1e-12, atol=1e-15)
    assert math.isclose(np.linalg.norm(stale_g - g), math.sqrt(0.072), rel_tol=1e-12)
    assert math.isclose(2 * math.sqrt(45) / 50, math.sqrt(0.072), rel_tol=1e-12)
    assert np.linalg.norm(stale_z - z) == math.sqrt(45)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 20), drift=st.floats(1e-6, 1e3))
def test_the_error_of_a_stale_cotangent_is_the_drift_over_the_stale_gap(
    seed: int, channels: int, drift: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    F, B, dF, dB = (torch.randn(2, channels, generator=rng, dtype=torch.float64) for _ in range(4))
    z, g = gap_and_cotangent(F, B)
    stale_z, stale_g = gap_and_cotangent(F + drift * dF, B + drift * dB)
    moved, gap, stale_gap = (float(np.linalg.norm(v)) for v in (stale_z - z, z, stale_z))
    error = float(np.linalg.norm(stale_g - g))
    scale = float(np.linalg.norm(g)) + float(np.linalg.norm(stale_g))
    assert abs(error - 2 * moved / (gap * stale_gap)) <= 1e-12 * scale
    assert abs(error / float(np.linalg.norm(g)) - moved / stale_gap) <= 1e-11 * (
        1 + gap / stale_gap
    )


def test_the_age_of_a_reply_counts_within_one_attempt_of_one_round_of_one_run() -> None:
    assert staleness(key(3), key(5)) == 2
    assert staleness(key(5), key(5)) == 0
    assert staleness(key(6), key(5)) is None, "from a later step"
    for other in (key(5, server_round=2), key(5, attempt=1), key(5, run="other")):
        assert staleness(other, key(5)) is None


@given(age=st.integers(-3, 20), bound=st.integers(0, 16))
def test_a_reply_serves_up_to_the_bound_and_no_longer(age: int, bound: int) -> None:
    assert is_usable(key(10), key(10 + age), bound) == (0 <= age <= bound)


def test_the_newest_reply_serves_until_it_is_too_old() -> None:
    newest = NewestReply(2)
    assert newest.at(key(0)) is None
    newest.offer(reply(4))
    newest.offer(reply(3))
    for step in (4, 5, 6):
        found = newest.at(key(step))
        assert found is not None
        assert found.key.step == 4
    assert newest.at(key(7)) is None
    assert newest.at(key(6)) is None, "it was forgotten"


def test_a_reply_of_the_round_before_never_serves() -> None:
    newest = NewestReply(16)
    newest.offer(reply(9))
    assert newest.at(key(9, server_round=2)) is None
    newest.offer(reply(0, server_round=2))
    assert newest.at(key(0, server_round=2)) is not None


def test_a_modelled_delay_of_two_steps_under_a_bound_of_one_worked_by_hand() -> None:
    clock = ModelledDelay(delay_steps=2.0, max_staleness=1)
    # Step 0 is posted at 0 and waits for its own reply, at 2; trained until 3.
    assert (clock.next_age(), clock.waited) == (0, 2.0)
    # Step 1 is posted at 3 and uses reply 0; trained until 4.
    assert (clock.next_age(), clock.waited) == (1, 2.0)
    # Step 2 is posted at 4; reply 0 is too old, reply 1 comes at 5; trained until 6.
    assert (clock.next_age(), clock.waited) == (1, 3.0)
    # Step 3 is posted at 6, when reply 2 is just there; trained until 7.
    assert (clock.next_age(), clock.waited) == (1, 3.0)


@given(delay=st.floats(0, 40), bound=st.integers(0, 16), steps=st.integers(1, 40))
def test_no_modelled_reply_is_older_than_the_bound_and_a_higher_bound_never_waits_longer(
    delay: float, bound: int, steps: int
) -> None:
    clocks = [ModelledDelay(delay_steps=delay, max_staleness=b) for b in (bound, bound + 1)]
    ages = [[clock.next_age() for _ in range(steps)] for clock in clocks]
    assert max(ages[0]) <= bound
    assert clocks[1].waited <= clocks[0].waited + 1e-9
    assert ages[0][0] == 0, "the first step of a round has nothing older to use"


@given(delay=st.integers(0, 40), steps=st.integers(1, 40))
def test_in_lockstep_every_step_waits_for_its_own_reply(delay: int, steps: int) -> None:
    clock = ModelledDelay(delay_steps=float(delay), max_staleness=0)
    assert [clock.next_age() for _ in range(steps)] == [0] * steps
    assert clock.waited == delay * steps


@given(bound=st.integers(0, 16), steps=st.integers(1, 40))
def test_replies_that_take_no_time_are_never_late(bound: int, steps: int) -> None:
    clock = ModelledDelay(delay_steps=0.0, max_staleness=bound)
    assert [clock.next_age() for _ in range(steps)] == [0] * steps
    assert clock.waited == 0


@pytest.mark.parametrize(("delay", "bound"), [(-1.0, 0), (math.nan, 0), (0.0, -1)])
def test_a_delay_that_cannot_be_is_refused(delay: float, bound: int) -> None:
    with pytest.raises(InvalidInput, match="neither may be below 0"):
        ModelledDelay(delay_steps=delay, max_staleness=bound)
