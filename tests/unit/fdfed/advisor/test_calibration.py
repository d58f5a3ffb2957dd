"""What a shift has meant for the Dice so far, and when nothing is foretold."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdfed.advisor import (
    Calibration,
    Observation,
    forecast,
    load_calibration,
    validate,
    write_calibration,
)
from fdfed.errors import InvalidInput

SITES = "abcdef"


def seen(base: str, novel: str, *, change: float, **values: Any) -> Observation:
    usual = {"shift": 0.5, "share": 0.5, "histogram": 0.1, "classifier": 0.5, "phantoms": True}
    return Observation(base=base, novel=novel, change=change, **(usual | values))


def line(*, noise: float = 0.0, predictor: str = "shift") -> list[Observation]:
    """Fifteen pairs in both directions: a shift of x changes the Dice by 0.02 - 0.1 x."""
    rng = np.random.default_rng(0)
    found = []
    for number, (base, novel) in enumerate(itertools.combinations(SITES, 2)):
        value = 0.1 + 0.04 * number
        for s, t in ((base, novel), (novel, base)):
            change = 0.02 - 0.1 * value + noise * rng.normal()
            found.append(seen(s, t, change=change, **{predictor: value}))
    return found


def calibration(observations: list[Observation]) -> Calibration:
    return Calibration(made_by="a test", observations=tuple(observations))


def test_without_a_calibration_no_number_is_given() -> None:
    found, why = forecast(None, shift=0.3, phantoms=True)
    assert found is None
    assert "no forecast without a calibration file" in why


def test_too_few_pairs_are_no_calibration_however_often_they_were_trained() -> None:
    few = [entry for entry in line() if entry.pair <= set("abc")] * 9
    found, why = forecast(calibration(few), shift=0.2, phantoms=True)
    assert found is None
    assert "holds 3 phantom pairs of sites, and 8 are needed" in why


def test_phantoms_say_nothing_of_patients() -> None:
    found, why = forecast(calibration(line()), shift=0.3, phantoms=False)
    assert found is None
    assert "0 real pairs" in why


def test_a_shift_beyond_those_that_were_observed_is_not_foretold() -> None:
    found, why = forecast(calibration(line()), shift=0.9, phantoms=True)
    assert found is None
    assert "outside of the 0.10 to 0.66" in why


def test_the_forecast_lies_on_the_line_and_its_interval_on_the_errors() -> None:
    found, why = forecast(calibration(line()), shift=0.3, phantoms=True)
    assert found is not None
    assert found.change == pytest.approx(0.02 - 0.1 * 0.3)
    assert found.high - found.low == pytest.approx(0, abs=1e-9)
    assert "30 trainings on 15 phantom pairs" in why
    noisy, _ = forecast(calibration(line(noise=0.01)), shift=0.3, phantoms=True)
    assert noisy is not None
    assert noisy.low < 0.02 - 0.03 < noisy.high
    assert 0.01 < noisy.high - noisy.low < 0.1


def test_a_forecast_that_is_no_better_than_the_mean_says_so() -> None:
    rng = np.random.default_rng(1)
    idle = [entry.model_copy(update={"change": 0.01 * rng.normal()}) for entry in line()]
    found, why = forecast(calibration(idle), shift=0.3, phantoms=True)
    assert found is not None
    assert "no better than the mean change" in why


def test_a_pair_is_foretold_by_others_alone() -> None:
    # One pair departs from the line, in all its trainings and both directions. If any of them were
    # left in, the line would bend towards it; as it is, its error is the whole departure.
    rows = [
        entry.model_copy(update={"change": entry.change + 0.5})
        if entry.pair == {"a", "b"}
        else entry
        for entry in line()
    ]
    others = [entry for entry in rows if entry.pair != {"a", "b"}]
    assert validate(others, "shift").rmse == pytest.approx(0, abs=1e-12)
    twice = [*rows, *(entry for entry in rows if entry.pair == {"a", "b"})]
    assert validate(twice, "shift").rmse == pytest.approx(validate(rows, "shift").rmse)
    assert validate(rows, "shift").rmse > 0.5 / 15**0.5


def test_the_predictor_that_the_change_follows_has_the_smallest_error() -> None:
    rows = line(noise=0.001, predictor="histogram")
    errors = {
        name: validate(rows, name).rmse
        for name in ("shift", "share", "histogram", "classifier", "none")
    }
    assert min(errors, key=lambda name: errors[name]) == "histogram"
    assert errors["shift"] == pytest.approx(errors["none"])
    assert validate(rows, "histogram").rank == pytest.approx(1, abs=0.05)
    assert validate(rows, "none").rank is None


def test_about_four_pairs_in_five_are_covered() -> None:
    rng = np.random.default_rng(3)
    sites = [f"s{number}" for number in range(10)]
    rows = [
        seen(s, t, change=float(np.clip(0.02 * rng.normal(), -1, 1)), shift=float(rng.uniform()))
        for s, t in itertools.combinations(sites, 2)
    ]
    covered = validate(rows, "shift").covered
    assert covered is not None
    assert 0.7 < covered < 0.9


def test_too_few_pairs_are_not_validated_and_few_have_no_interval() -> None:
    two = [entry for entry in line() if entry.pair in ({"a", "b"}, {"a", "c"})]
    with pytest.raises(InvalidInput, match="2 pair"):
        validate(two, "shift")
    four = [entry for entry in line() if "a" in entry.pair and "f" not in entry.pair]
    assert validate(four, "shift").covered is None


def test_a_calibration_is_read_as_it_was_written_and_another_file_is_refused(
    tmp_path: Path,
) -> None:
    made = calibration(line())
    write_calibration(tmp_path / "calibration.json", made)
    assert load_calibration(tmp_path / "calibration.json") == made
    (tmp_path / "odd.json").write_text('{"format": 2}')
    for name in ("odd.json", "none.json"):
        with pytest.raises(InvalidInput, match=name):
            load_calibration(tmp_path / name)
