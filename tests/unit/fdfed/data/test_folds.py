"""Held-out patients and folds depend on names alone, keep patients whole, and never overlap."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.data import PARTS, Case, fold_of_patients, held_out_patients
from fdfed.data.folds import study_split, without_draw
from fdfed.errors import DataError, InvalidInput


def cases_of(sizes: list[int]) -> list[Case]:
    return [
        Case(f"{patient}-{image}", Path("i"), Path("m"), f"patient {patient}")
        for patient, size in enumerate(sizes)
        for image in range(size)
    ]


SIZES = st.lists(st.integers(1, 9), min_size=5, max_size=30)


def test_the_held_out_are_those_with_the_smallest_hash() -> None:
    # The definition, written out: SHA-256 of the JSON list, smallest fifth. 10 patients: 2.
    patients = [f"p{number}" for number in range(10)]

    def digest(patient: str) -> str:
        text = json.dumps(["held out", "d", "tnbc", patient])
        return hashlib.sha256(text.encode()).hexdigest()

    expected = sorted(sorted(patients, key=digest)[:2])
    assert list(held_out_patients(patients, site="tnbc", draw="d")) == expected


@given(count=st.integers(0, 200))
def test_a_fifth_of_the_patients_is_held_out(count: int) -> None:
    held = held_out_patients([str(number) for number in range(count)], site="a", draw="d")
    assert len(held) == (0 if count < 2 else max(1, round(count / 5)))


def test_draw_and_site_both_change_who_is_held_out() -> None:
    patients = [str(number) for number in range(50)]
    first = held_out_patients(patients, site="a", draw="d")
    assert first != held_out_patients(patients, site="b", draw="d")
    assert first != held_out_patients(patients, site="a", draw="e")


@settings(deadline=None)
@given(sizes=SIZES, folds=st.integers(2, 5))
def test_folds_keep_patients_whole_and_differ_by_one_patient_at_most(
    sizes: list[int], folds: int
) -> None:
    of = fold_of_patients(cases_of(sizes), site="a", folds=folds)
    assert set(of) == {f"patient {number}" for number in range(len(sizes))}
    images = [
        sum(size for p, size in enumerate(sizes) if of[f"patient {p}"] == fold)
        for fold in range(folds)
    ]
    # Largest first into the emptiest: no two folds differ by more than the largest patient.
    assert max(images) - min(images) <= max(sizes)


@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_over_all_folds_each_remaining_image_validates_once_and_no_held_out_image_is_used(
    sizes: list[int], seed: int
) -> None:
    cases = cases_of(sizes)
    held = held_out_patients({case.patient for case in cases}, site="a", draw="d")
    validated: list[str] = []
    for fold in range(3):
        split = study_split(cases, site="a", seed=seed, held_out="d", fold=fold, folds=3)
        assert split["test"] == ()
        used = [case for part in PARTS for case in split[part]]
        assert not {case.patient for case in used} & set(held)
        assert not {c.patient for c in split["train"]} & {c.patient for c in split["validation"]}
        validated += [case.name for case in split["validation"]]
    assert sorted(validated) == sorted(c.name for c in cases if c.patient not in held)


@settings(deadline=None)
@given(sizes=SIZES)
def test_patients_who_are_set_aside_are_in_no_part_of_a_split_by_another_draw(
    sizes: list[int],
) -> None:
    cases = cases_of(sizes)
    aside = set(held_out_patients({case.patient for case in cases}, site="a", draw="d"))
    left = without_draw(cases, site="a", draw="d")
    split = study_split(left, site="a", seed=0, held_out="e", fold=None, folds=3)
    parts = {part: {case.patient for case in split[part]} for part in PARTS}
    assert not aside & set.union(*parts.values())
    assert parts["test"]
    assert {case.patient for case in cases} == aside.union(*parts.values())


def test_the_seed_does_not_move_a_fold() -> None:
    cases = cases_of([1] * 20)
    splits = [
        study_split(cases, site="a", seed=seed, held_out="d", fold=1, folds=3) for seed in (0, 1)
    ]
    assert splits[0] == splits[1]


@settings(deadline=None)
@given(sizes=SIZES)
def test_without_a_fold_the_held_out_patients_are_the_test_part_for_every_seed(
    sizes: list[int],
) -> None:
    cases = cases_of(sizes)
    held = set(held_out_patients({case.patient for case in cases}, site="a", draw="d"))
    for seed in range(3):
        split = study_split(cases, site="a", seed=seed, held_out="d", fold=None, folds=3)
        assert {case.patient for case in split["test"]} == held
        assert split["train"]
        assert split["validation"]
        assert sum(len(split[part]) for part in PARTS) == len(cases)


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"2 patient\(s\) to spread over 3 folds"):
        fold_of_patients(cases_of([4, 4]), site="a", folds=3)


def test_a_site_of_two_patients_cannot_hold_one_out() -> None:
    with pytest.raises(DataError, match="too few patients"):
        study_split(cases_of([3, 3]), site="a", seed=0, held_out="d", fold=None, folds=3)
