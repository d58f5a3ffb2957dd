"""Shall we add this hospital? An answer from prototypes and their validity alone."""

from fdfed.advisor.advice import Advice, Candidate, advise, load_advice, write_advice
from fdfed.advisor.calibration import (
    Calibration,
    Forecast,
    Observation,
    forecast,
    load_calibration,
    validate,
    write_calibration,
)
from fdfed.advisor.shift import Shift, shift_between
from fdfed.advisor.summary import SiteSummary, TapSummary, load_summary, summarise, write_summary

__all__ = [
    "Advice",
    "Calibration",
    "Candidate",
    "Forecast",
    "Observation",
    "Shift",
    "SiteSummary",
    "TapSummary",
    "advise",
    "forecast",
    "load_advice",
    "load_calibration",
    "load_summary",
    "shift_between",
    "summarise",
    "validate",
    "write_advice",
    "write_calibration",
    "write_summary",
]
