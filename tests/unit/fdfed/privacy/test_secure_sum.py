"""The masked sum: the plain fixed-point sum to the bit, and noise with any part missing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import CryptoError, InvalidInput
from fdfed.privacy import (
    ContributionLayout,
    KeyContext,
    MaskingKey,
    Measures,
    PairKey,
    PairwiseMasks,
    Signer,
)

CONTEXT = KeyContext(roster="0" * 64, run_id="ab" * 8, server_round=1, attempt=1)
TAPS = 2


def keys_of(sites: Sequence[str]) -> dict[str, MaskingKey]:
    signers = Signer.circle(sites)
    context = CONTEXT.model_copy(update={"roster": signers[sites[0]].roster})
    return {site: MaskingKey(signers[site], context) for site in sites}


def masks_of(sites: Sequence[str]) -> dict[str, PairwiseMasks]:
    keys = keys_of(sites)
    announced = [key.announcement for key in keys.values()]
    return {site: key.masks(announced, inputs=b"same")[0] for site, key in keys.items()}


def update(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], Measures]:
    weights = {
        "conv.weight": rng.normal(size=(3, 2)).astype(np.float32),
        "norm.num_batches_tracked": np.array(rng.integers(0, 1000), dtype=np.int64),
    }
    fd = rng.normal(size=TAPS)
    fd[rng.random(TAPS) < 0.3] = np.nan
    return weights, Measures(
        loss_seg=rng.random(), alpha=rng.random(TAPS), fd=fd, exch=fd + 1, total=2 * fd
    )


def layout() -> ContributionLayout:
    return ContributionLayout.of(update(np.random.default_rng(0))[0], taps=TAPS)


@given(sites=st.integers(2, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_masked_sum_is_the_plain_fixed_point_sum_to_the_bit(sites: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"site{number}" for number in range(sites)]
    masks = masks_of(names)
    plain = np.zeros(layout().size, np.uint64)
    masked = np.zeros(layout().size, np.uint64)
    for name in names:
        values = layout().contribution(*update(rng), num_examples=int(rng.integers(1, 500)))
        plain += values
        masks[name].add_(values)
        masked += values
    assert masked.tobytes() == plain.tobytes()


@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_any_integers_at_all_sum_to_themselves(values: list[int]) -> None:
    masks = masks_of(["a", "b", "c"])
    rows = [np.array(values, np.uint64) for _ in masks]
    for row, mask in zip(rows, masks.values(), strict=True):
        mask.add_(row)
    expected = [3 * value % 2**64 for value in values]
    np.testing.assert_array_equal(rows[0] + rows[1] + rows[2], np.array(expected, np.uint64))


def test_a_mask_is_the_key_stream_of_aes_256_in_counter_mode_also_past_a_chunk() -> None:
    key, size = bytes(range(32)), (1 << 15) + 3
    values = np.zeros(size, np.uint64)
    PairwiseMasks([PairKey(key, adds=True)]).add_(values)
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    assert values.tobytes() == encryptor.update(bytes(8 * size))
    # FIPS 197, C.3: AES-256 under this key; the counter block is the one of the first 16 bytes.
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(16))  # noqa: S305
    assert values[:2].tobytes() == block


def test_masks_serve_once() -> None:
    masks = masks_of(["a", "b"])["a"]
    masks.add_(np.zeros(3, np.uint64))
    with pytest.raises(CryptoError, match="have been used"):
        masks.add_(np.zeros(3, np.uint64))


def test_without_one_contribution_the_sum_decodes_to_nothing() -> None:
    rng, names = np.random.default_rng(0), ["a", "b", "c"]
    masks = masks_of(names)
    total = np.zeros(layout().size, np.uint64)
    for name in names[:2]:
        values = layout().contribution(*update(rng), num_examples=7)
        masks[name].add_(values)
        total += values
    assert layout().mean(total) is None


def test_masked_numbers_look_uniform_alone_and_beside_each_other() -> None:
    size = 1 << 16
    values = {name: np.full(size, 1 << 25, np.uint64) for name in ("a", "b", "c")}
    for name, masks in masks_of(list(values)).items():
        masks.add_(values[name])
    for row in values.values():
        ones = np.unpackbits(row.view(np.uint8)).mean()
        # Of 2²² fair bits the share of ones is off by 5 standard deviations with chance 6e-7.
        assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(64 * size)
        assert len(np.unique(row)) == size
    for first, second in pairwise(values.values()):
        same = np.unpackbits((first ^ second).view(np.uint8)).mean()
        assert abs(same - 0.5) < 5 * 0.5 / np.sqrt(64 * size)


def test_the_same_update_in_two_attempts_gives_other_numbers() -> None:
    sent = []
    for _ in range(2):
        values = np.arange(100, dtype=np.uint64)
        masks_of(["a", "b", "c"])["a"].add_(values)
        sent.append(values)
    assert not (sent[0] == sent[1]).any()


def test_the_mean_is_weighted_by_examples_and_by_those_that_know_as_worked_by_hand() -> None:
    sites = [(1, 1.0, np.array([2.0, np.nan])), (3, 5.0, np.array([6.0, 0.5]))]
    form = ContributionLayout.of({"w": np.zeros((), np.float32)}, taps=2)
    total = np.zeros(form.size, np.uint64)
    for n, w, fd in sites:
        measures = Measures(
            loss_seg=w / 2, alpha=fd[:1].repeat(2), fd=fd, exch=np.full(2, np.nan), total=fd
        )
        total += form.contribution({"w": np.array(w, np.float32)}, measures, num_examples=n)
    mean = form.mean(total)
    assert mean is not None
    assert mean.examples == 4
    assert mean.weights["w"] == 4  # (1 · 1 + 3 · 5) / 4
    assert mean.weights["w"].shape == ()
    assert mean.measures.loss_seg == 2  # (1 · 0.5 + 3 · 2.5) / 4
    np.testing.assert_array_equal(mean.measures.alpha, [5, 5])  # (1 · 2 + 3 · 6) / 4
    np.testing.assert_array_equal(mean.measures.fd, [5, 0.5])  # the second: 3 · 0.5 / 3
    assert np.isnan(mean.measures.exch).all()


def test_the_order_in_which_tensors_are_held_changes_nothing() -> None:
    weights, measures = update(np.random.default_rng(1))
    turned = dict(reversed(weights.items()))
    form = ContributionLayout.of(turned, taps=TAPS)
    assert form == layout()
    first, second = (form.contribution(w, measures, num_examples=3) for w in (weights, turned))
    assert first.tobytes() == second.tobytes()


def test_a_contribution_of_another_network_is_refused() -> None:
    weights, measures = update(np.random.default_rng(1))
    with pytest.raises(InvalidInput, match="the network of the plan has"):
        layout().contribution(weights | {"conv.weight": np.zeros(3)}, measures, num_examples=3)
    wide = ContributionLayout(layout().tensors, TAPS + 1)
    with pytest.raises(InvalidInput, match="alpha has 2 entries, but there are 3 taps"):
        wide.contribution(weights, measures, num_examples=3)


def test_a_loss_that_is_no_number_is_refused() -> None:
    weights, measures = update(np.random.default_rng(1))
    broken = Measures(
        loss_seg=np.nan,
        alpha=measures.alpha,
        fd=measures.fd,
        exch=measures.exch,
        total=measures.total,
    )
    with pytest.raises(InvalidInput, match="'loss_seg' holds a value that is not within"):
        layout().contribution(weights, broken, num_examples=3)


def test_nothing_of_a_shared_secret_is_in_an_announcement() -> None:
    key = keys_of(["a", "b"])["a"]
    assert key._private is not None
    private = key._private.private_bytes_raw()
    assert private.hex() not in key.announcement
    assert hashlib.sha256(private).hexdigest() not in key.announcement
