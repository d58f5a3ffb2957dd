"""What the study of bounded staleness leaves: CSV, a figure, `study.json`, its page's results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes

from fdfed.evaluation.figure_style import save_chart, series_look
from fdfed.evaluation.results import library_versions
from fdfed.files.atomic_file import write_text
from fdfed.studies.cotangents import LAGS
from fdfed.studies.halving import Spread, paired_differences
from fdfed.studies.page import finite, rewrite_results, with_sd, write_csv
from fdfed.studies.staleness import agenda as staleness
from fdfed.studies.trials import TrialResult

Results = Mapping[str, TrialResult]

STUDY: Final = "staleness"
_CONFIGS: Final = (staleness.NO_EXCHANGE, *map(staleness.config_of, staleness.BOUNDS))
_COLUMNS: Final = (
    "config", "fold", "seed", "steps", "score", *staleness.SITES, "answered", "dropped",
    "staleness_mean", "staleness_max", "seconds", "failure", "trial",
)  # fmt: skip
_ERROR_COLUMNS: Final = ("config", "tap", "lag", "error", "error_q90", "cosine", "count")
_WAIT_COLUMNS: Final = ("max_staleness", "delay_steps", "waiting_share", "age_mean")
_ROUND_STEPS: Final = 20


def write_study(out: Path, results: Results) -> None:
    """`staleness.csv`, `staleness-cotangents.csv`, `staleness-waiting.csv`, the figure as SVG and
    PNG, and `study.json` in `out`."""
    _write_tables(out, results)
    if (out / "staleness.svg").exists():
        _draw(out / "staleness.png", results)
    asked = staleness.agenda(results)
    document = {
        "study": STUDY,
        "trials": len(results),
        "asked": len(asked),
        "done": sum(trial.name in results for trial in asked),
        "configurations": [_row(config, results) for config in _CONFIGS],
        "cotangents": _error_rows(results),
        "waiting": _wait_rows(),
        "versions": library_versions(),
    }
    write_text(out / "study.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_page(page: Path, results: Results) -> None:
    """Rewrites the results section of `page`; tables and figure go beside it.

    Raises:
        InvalidInput: if the page is missing or lacks the two marks around the section.
    """
    rewrite_results(
        page,
        STUDY,
        lambda folder: _write_tables(folder, results),
        lambda _: results_section(results),
    )


def results_section(results: Results) -> str:
    """The results as Markdown."""
    asked = staleness.agenda(results)
    done = sum(trial.name in results for trial in asked)
    hours = math.fsum(result.seconds for result in results.values()) / 3600
    parts = [
        f"{done} of {len(asked)} trials are finished, {hours:.2f} hours of training and validation "
        "by the clock.",
    ]
    if results:
        parts += [
            "![Relative error of a late cotangent, Dice, and waiting](staleness.svg)",
            "### Dice on validation folds",
            _dice_table(results),
            "### Error of a cotangent by its age, in lockstep (d = 0)",
            _error_table(results),
        ]
    parts += ["### Waiting", _wait_table()]
    return "\n\n".join(parts) + "\n"


def _write_tables(folder: Path, results: Results) -> None:
    trials = sorted(results.values(), key=lambda r: (_CONFIGS.index(r.config), r.fold, r.seed))
    write_csv(folder / "staleness.csv", _COLUMNS, map(_trial_row, trials))
    write_csv(folder / "staleness-cotangents.csv", _ERROR_COLUMNS, _error_rows(results))
    write_csv(folder / "staleness-waiting.csv", _WAIT_COLUMNS, _wait_rows())
    if any(trial.score is not None for trial in trials):
        _draw(folder / "staleness.svg", results)


def _trial_row(result: TrialResult) -> dict[str, Any]:
    row = {key: getattr(result, key) for key in _COLUMNS if hasattr(result, key)}
    used = {key: result.exchange[key] for key in _COLUMNS if key in result.exchange}
    return row | dict(result.site_scores) | used | {"trial": result.name}


def _scores(config: str, results: Results) -> dict[tuple[int, int], float]:
    return {
        (r.fold, r.seed): r.score
        for r in results.values()
        if r.config == config and r.score is not None
    }


def _row(config: str, results: Results) -> dict[str, Any]:
    """One configuration, and its lead over lockstep on the same folds and seeds."""
    trials = [result for result in results.values() if result.config == config]
    scores = _scores(config, results)
    leads = paired_differences(scores, _scores(staleness.LOCKSTEP, results))
    spread = Spread.of(list(scores.values())) if scores else None
    lead = Spread.of(leads) if leads else None
    ages = [t.exchange["staleness_mean"] for t in trials if t.exchange]
    return {
        "config": config,
        "trials": len(trials),
        "failed": sum(t.score is None for t in trials),
        "dice": spread.mean if spread else None,
        "sd": finite(spread.sd) if spread else None,
        "lead": lead.mean if lead else None,
        "lead_sd": finite(lead.sd) if lead else None,
        "pairs": lead.n if lead else 0,
        "staleness_mean": math.fsum(ages) / len(ages) if ages else None,
        "dropped": sum(int(t.exchange["dropped"]) for t in trials if t.exchange),
    }


def _error_rows(results: Results) -> list[dict[str, Any]]:
    """Each configuration's errors by tap and lag: the mean over its trials of their medians."""
    rows = []
    for config in _CONFIGS[1:]:
        trials = [r.cotangents for r in results.values() if r.config == config and r.cotangents]
        for tap in trials[0] if trials else ():
            for lag in LAGS:
                found = [t[tap][lag] for t in trials if lag in t.get(tap, {})]
                if found:
                    means = {
                        name: float(np.mean([getattr(entry, name) for entry in found]))
                        for name in ("error", "error_q90", "cosine")
                    }
                    count = sum(entry.count for entry in found)
                    rows.append({"config": config, "tap": tap, "lag": lag, **means, "count": count})
    return rows


def _wait_rows() -> list[dict[str, Any]]:
    rows = []
    for bound in staleness.BOUNDS:
        for delay in staleness.DELAYS:
            share, age = staleness.waiting(bound, delay, steps=_ROUND_STEPS)
            values = {"waiting_share": share, "age_mean": age}
            rows.append({"max_staleness": bound, "delay_steps": delay, **values})
    return rows


def _dice_table(results: Results) -> str:
    lines = [
        "| configuration | trials | Dice | lead over lockstep | mean age of a reply | dropped |",
        "|---|---|---|---|---|---|",
    ]
    for config in _CONFIGS:
        row = _row(config, results)
        age = "–" if row["staleness_mean"] is None else f"{row['staleness_mean']:.2f}"
        lines.append(
            f"| {config} | {row['trials']} | {with_sd(row['dice'], row['sd'])} | "
            f"{with_sd(row['lead'], row['lead_sd'], sign='+')} ({row['pairs']}) | {age} | "
            f"{row['dropped']} |"
        )
    return "\n".join(lines)


def _error_table(results: Results) -> str:
    rows = [row for row in _error_rows(results) if row["config"] == staleness.LOCKSTEP]
    lines = [
        "| tap | " + " | ".join(f"{lag} step{'s' * (lag > 1)}" for lag in LAGS) + " |",
        "|---" * (1 + len(LAGS)) + "|",
    ]
    for tap in dict.fromkeys(row["tap"] for row in rows):
        cells = {row["lag"]: f"{row['error']:.2f} ({row['cosine']:.2f})" for row in rows
                 if row["tap"] == tap}  # fmt: skip
        lines.append(f"| {tap} | " + " | ".join(cells.get(lag, "–") for lag in LAGS) + " |")
    note = "Median of |g(k−τ) − g(k)| / |g(k)|, in brackets the median cosine; mean over trials."
    return "\n".join([*lines, "", note])


def _wait_table() -> str:
    rows = {(r["max_staleness"], r["delay_steps"]): r for r in _wait_rows()}
    heads = " | ".join(f"{delay:g} steps" for delay in staleness.DELAYS)
    lines = [f"| d | {heads} |", "|---" * (1 + len(staleness.DELAYS)) + "|"]
    for bound in staleness.BOUNDS:
        cells = (
            f"{100 * row['waiting_share']:.0f} % ({row['age_mean']:.2f})"
            for row in (rows[bound, delay] for delay in staleness.DELAYS)
        )
        lines.append(f"| {bound} | " + " | ".join(cells) + " |")
    note = (
        f"Share of a round of {_ROUND_STEPS} steps in which a site waits, by how long a reply "
        "takes; in brackets the mean age of the replies used. Modelled, not measured."
    )
    return "\n".join([*lines, "", note])


def _draw(path: Path, results: Results) -> None:
    def draw(axes: Sequence[Axes]) -> None:
        _draw_errors(axes[0], results)
        _draw_dice(axes[1], results)
        _draw_waiting(axes[2])

    save_chart(path, draw, panels=3, width=12.0, height=3.4)


def _draw_errors(axes: Axes, results: Results) -> None:
    rows = [row for row in _error_rows(results) if row["config"] == staleness.LOCKSTEP]
    for number, tap in enumerate(dict.fromkeys(row["tap"] for row in rows)):
        mine = [row for row in rows if row["tap"] == tap]
        colour, line, marker = series_look(number)
        axes.plot([r["lag"] for r in mine], [r["error"] for r in mine],
                  color=colour, linestyle=line, marker=marker, label=tap)  # fmt: skip
    axes.set_xlabel("age of the cotangent, steps")
    axes.set_ylabel("relative error, median")
    axes.set_ylim(bottom=0)
    if rows:
        axes.legend(ncols=3)


def _draw_dice(axes: Axes, results: Results) -> None:
    colour, line, marker = series_look(0)
    rows = [(bound, _row(staleness.config_of(bound), results)) for bound in staleness.BOUNDS]
    known = [(bound, row) for bound, row in rows if row["dice"] is not None]
    axes.errorbar(
        [bound for bound, _ in known],
        [100 * row["dice"] for _, row in known],
        yerr=[100 * (row["sd"] or 0.0) for _, row in known],
        color=colour, linestyle=line, marker=marker, capsize=3, label="fd + exch",
    )  # fmt: skip
    without = _row(staleness.NO_EXCHANGE, results)["dice"]
    if without is not None:
        other, dashes, _ = series_look(1)
        axes.axhline(100 * without, color=other, linestyle=dashes, label=staleness.NO_EXCHANGE)
    axes.set_xlabel("d = delay of a reply, steps")
    axes.set_ylabel("validation Dice, % (± sd over folds, seeds)")
    axes.legend()


def _draw_waiting(axes: Axes) -> None:
    for number, bound in enumerate(staleness.BOUNDS):
        colour, line, marker = series_look(number)
        shares = [
            100 * staleness.waiting(bound, delay, steps=_ROUND_STEPS)[0]
            for delay in staleness.DELAYS
        ]
        axes.plot(staleness.DELAYS, shares, color=colour, linestyle=line, marker=marker,
                  label=staleness.config_of(bound))  # fmt: skip
    axes.set_xlabel("delay of a reply, steps")
    axes.set_ylabel("time spent waiting, % (modelled)")
    axes.legend()
