"""The split keeps patients together, comes close to 70-10-20 and depends on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.data import PARTS, Case, split_cases


def cases_of(sizes: list[int]) -> list[Case]:
    return [
        Case(f"{patient}-{image}", Path("i"), Path("m"), f"patient {patient}")
        for patient, size in enumerate(sizes)
        for image in range(size)
    ]


SIZES = st.lists(st.integers(1, 9), min_size=0, max_size=25)


@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_parts_are_a_partition_that_keeps_each_patient_whole(sizes: list[int], seed: int) -> None:
    cases = cases_of(sizes)
    split = split_cases(cases, site="a", seed=seed)
    assert sorted(case.name for part in PARTS for case in split[part]) == sorted(
        case.name for case in cases
    )
    owners = [{case.patient for case in split[part]} for part in PARTS]
    assert sum(len(owner) for owner in owners) == len(sizes)
    if len(sizes) >= 3:
        assert all(owners)


@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1), order=st.randoms(use_true_random=False))
def test_the_order_of_the_files_has_no_influence(
    sizes: list[int], seed: int, order: object
) -> None:
    cases = cases_of(sizes)
    shuffled = list(cases)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_cases(cases, site="a", seed=seed) == split_cases(shuffled, site="a", seed=seed)


@settings(deadline=None)
@given(count=st.integers(10, 120), seed=st.integers(0, 2**32 - 1))
def test_single_image_patients_split_to_the_nearest_image(count: int, seed: int) -> None:
    split = split_cases(cases_of([1] * count), site="a", seed=seed)
    # Each cut is off by at most half an image, so each part by at most one.
    for part, share in zip(PARTS, (0.7, 0.1, 0.2), strict=True):
        assert abs(len(split[part]) - share * count) <= 1


def test_ten_patients_of_one_image_split_into_seven_one_and_two() -> None:
    split = split_cases(cases_of([1] * 10), site="a", seed=0)
    assert [len(split[part]) for part in PARTS] == [7, 1, 2]


def test_uneven_patients_still_come_close_to_the_shares() -> None:
    # As TNBC: 50 images of 11 patients; ideal 35, 5, 10.
    split = split_cases(cases_of([7, 3, 5, 8, 4, 3, 3, 4, 6, 4, 3]), site="tnbc", seed=0)
    counts = [len(split[part]) for part in PARTS]
    assert all(abs(n - ideal) <= 2 for n, ideal in zip(counts, (35, 5, 10), strict=True))


@pytest.mark.parametrize(
    ("patients", "expected"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1])]
)
def test_few_patients_fill_training_then_test_then_validation(
    patients: int, expected: list[int]
) -> None:
    split = split_cases(cases_of([1] * patients), site="a", seed=0)
    assert [len(split[part]) for part in PARTS] == expected


def test_seed_and_site_both_change_the_split() -> None:
    cases = cases_of([1] * 30)
    first = split_cases(cases, site="a", seed=0)
    assert first != split_cases(cases, site="a", seed=1)
    assert first != split_cases(cases, site="b", seed=0)
