"""What a study leaves: tables as CSV, `study.json`, a figure, and the results part of its page.

All of it is made from the finished trials alone, so it can be made again at any time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fdfed.evaluation.results import library_versions
from fdfed.evaluation.significance import mean_interval
from fdfed.files.atomic_file import write_text
from fdfed.studies.defaults import agenda as defaults
from fdfed.studies.defaults.curves import draw_curves
from fdfed.studies.halving import Spread, paired_differences
from fdfed.studies.page import finite, percent, rewrite_results, with_sd, write_csv
from fdfed.studies.trials import Trial, TrialResult

Results = Mapping[str, TrialResult]

STUDY: Final = "defaults"

_MODELS: Final = (*defaults.SITES, "pooled")
_COLUMNS: Final = (
    "group", "method", "config", "fold", "seed", "steps", "score", *_MODELS, "slope",
    "seconds", "failure", "trial",
)  # fmt: skip


def write_study(out: Path, results: Results) -> None:
    """`defaults.csv`, `defaults-taps.csv`, `defaults-curves.svg` and `study.json` in `out`."""
    _write_tables(out, results)
    document = {
        "study": STUDY,
        "trials": len(results),
        "trials_per_method": defaults.TRIALS_PER_METHOD,
        "stages": [
            {"stage": name, "asked": len(trials), "done": _done(trials, results)}
            for name, trials in defaults.stages(results).items()
        ],
        "configurations": [_row(key, rows, results) for key, rows in _by_config(results).items()],
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
    """The results as Markdown: progress, every configuration, and the taps of the methods."""
    parts = ["### Trials so far", _progress(results)]
    if results:
        parts.append("![Validation Dice against training steps](defaults-curves.svg)")
    for group in (defaults.HISTOLOGY.name, defaults.ULTRASOUND.name):
        if any(result.group == group for result in results.values()):
            parts += [
                f"### {group.capitalize()}: Dice on validation folds",
                _scores(group, results),
            ]
            parts += _finals(group, results)
            parts += _taps(group, results)
    return "\n\n".join(parts) + "\n"


def _write_tables(folder: Path, results: Results) -> None:
    trials = sorted(results.values(), key=lambda r: (r.group, r.method, r.config, r.fold, r.seed))
    write_csv(folder / "defaults.csv", _COLUMNS, map(_trial_row, trials))
    taps = [
        {"group": r.group, "method": r.method, "config": r.config, "fold": r.fold, "seed": r.seed,
         "tap": tap} | asdict(entry)
        for r in trials
        for tap, entry in r.taps.items()
    ]  # fmt: skip
    if taps:
        write_csv(folder / "defaults-taps.csv", list(taps[0]), taps)
    if trials:
        draw_curves(folder / "defaults-curves.svg", trials, compared=tuple(defaults.METHODS))


def _trial_row(result: TrialResult) -> dict[str, Any]:
    row = {key: getattr(result, key) for key in _COLUMNS if hasattr(result, key)}
    return row | dict(result.site_scores) | {"trial": result.name}


def _by_config(results: Results) -> dict[tuple[str, str, str], list[TrialResult]]:
    found: dict[tuple[str, str, str], list[TrialResult]] = {}
    for result in results.values():
        found.setdefault((result.group, result.method, result.config), []).append(result)
    return found


def _row(
    key: tuple[str, str, str], trials: Sequence[TrialResult], results: Results
) -> dict[str, Any]:
    """One configuration: scores over its folds and seeds, and its lead over federated averaging
    on the same folds and seeds."""
    group, method, config = key
    scores = _replicates(trials)
    baseline = _replicates(_baseline(group, config, results))
    leads = paired_differences(scores, baseline)
    spread = Spread.of(list(scores.values())) if scores else None
    lead = Spread.of(leads) if leads else None
    slopes = [t.slope for t in trials if t.slope is not None]
    return {
        "group": group,
        "method": method,
        "config": config,
        "trials": len(trials),
        "failed": sum(t.score is None for t in trials),
        "dice": spread.mean if spread else None,
        "sd": finite(spread.sd) if spread else None,
        "lead": lead.mean if lead else None,
        "lead_sd": finite(lead.sd) if lead else None,
        "pairs": lead.n if lead else 0,
        "slope": math.fsum(slopes) / len(slopes) if slopes else None,
        "sites": _site_means(trials),
    }


def _baseline(group: str, config: str, results: Results) -> list[TrialResult]:
    """What a configuration leads: federated averaging's base, or its finalist in the finals."""
    finals = config.startswith(defaults.FINAL)
    return [
        result
        for result in results.values()
        if (result.group, result.method) == (group, "fedavg")
        and (result.config.startswith(defaults.FINAL) if finals else result.config == defaults.BASE)
    ]


def _replicates(trials: Iterable[TrialResult]) -> dict[tuple[int, int], float]:
    return {(t.fold, t.seed): t.score for t in trials if t.score is not None}


def _site_means(trials: Sequence[TrialResult]) -> dict[str, float]:
    names = [name for name in _MODELS if any(name in t.site_scores for t in trials)]
    found = {n: [t.site_scores[n] for t in trials if n in t.site_scores] for n in names}
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def _done(trials: Sequence[Trial], results: Results) -> int:
    return sum(trial.name in results for trial in trials)


def _progress(results: Results) -> str:
    lines = ["| stage | trials asked for | done |", "|---|---|---|"]
    for name, trials in defaults.stages(results).items():
        lines.append(f"| {name} | {len(trials)} | {_done(trials, results)} |")
    failed = sum(result.score is None for result in results.values())
    hours = math.fsum(result.seconds for result in results.values()) / 3600
    lines += [
        "",
        f"{len(results)} trials are finished ({failed} of them diverged), {hours:.1f} hours of "
        "training and validation by the clock; a trial that several stages ask for is run once. "
        "Later stages appear when the results that they depend on are there.",
    ]
    return "\n".join(lines)


def _scores(group: str, results: Results) -> str:
    rows = [_row(k, trials, results) for k, trials in _by_config(results).items() if k[0] == group]
    order = {name: place for place, name in enumerate((*defaults.METHODS, *defaults.REFERENCES))}
    rows.sort(key=lambda row: (order[row["method"]], row["config"] != defaults.BASE, row["config"]))
    lines = [
        "| method | configuration | trials | Dice | by site | lead over FedAvg | slope |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sites = ", ".join(f"{name} {percent(value)}" for name, value in row["sites"].items())
        lead = with_sd(row["lead"], row["lead_sd"], sign="+")
        pairs = f" ({row['pairs']})" if row["pairs"] else ""
        lines.append(
            f"| {row['method']} | {row['config']} | {row['trials']} | "
            f"{with_sd(row['dice'], row['sd'])} | {sites} | {lead}{pairs} | "
            f"{percent(row['slope'], sign='+')} |"
        )
    return "\n".join(lines)


def _finals(group: str, results: Results) -> list[str]:
    """The decision's table: every finalist's lead over those that it is held against."""
    finals = {
        (method, config.removeprefix(defaults.FINAL)): {
            (trial.fold, trial.seed): trial.score or 0.0 for trial in trials
        }
        for (of, method, config), trials in _by_config(results).items()
        if of == group and config.startswith(defaults.FINAL)
    }
    if not finals:
        return []
    order = {name: place for place, name in enumerate((*defaults.METHODS, *defaults.REFERENCES))}
    finals = dict(sorted(finals.items(), key=lambda entry: order[entry[0][0]]))
    rivals = [key for key in finals if key[0] in ("fedavg", "fd", defaults.RESTART)]
    heads = " | ".join(f"lead over {method} ({config})" for method, config in rivals)
    lines = [
        f"| finalist | configuration | trials | {heads} |",
        f"|---|---|---|{'---|' * len(rivals)}",
    ]
    for key, scores in finals.items():
        cells = [
            "" if rival == key else _lead(paired_differences(scores, finals[rival]))
            for rival in rivals
        ]
        lines.append(f"| {key[0]} | {key[1]} | {len(scores)} | {' | '.join(cells)} |")
    return [
        f"#### {group.capitalize()} finals",
        "\n".join(lines),
        "Means over the folds and seeds that both have, with 95 % intervals by Student's t over "
        "these pairs. Seeds share folds, so the intervals are somewhat too narrow.",
    ]


def _lead(leads: Sequence[float]) -> str:
    if not leads:
        return "–"
    low, high = mean_interval(leads)
    mean = percent(math.fsum(leads) / len(leads), sign="+")
    if low is None or high is None:
        return f"{mean} (1)"
    return f"{mean} ({percent(low, sign='+')} to {percent(high, sign='+')}; {len(leads)})"


def _taps(group: str, results: Results) -> list[str]:
    """One table for each method of what happens at its taps, mean over the base trials."""
    parts = []
    for method in defaults.METHODS:
        trials = [
            r for r in results.values()
            if (r.group, r.method, r.config) == (group, method, defaults.BASE) and r.taps
        ]  # fmt: skip
        if not trials:
            continue
        lines = [
            "| tap | α | valid | α·∇L_fd share | α·∇L_exch share | ‖F_s−B_s‖ | ‖F_s−F_t‖ | "
            "‖B_s−B_t‖ | own models: F, B | of it drift: F, B |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_tap_line(tap, trials) for tap in trials[0].taps]
        title = f"{group.capitalize()}, {method}, base: taps (mean of {len(trials)} trials)"
        parts += [f"<details><summary>{title}</summary>\n\n" + "\n".join(lines) + "\n\n</details>"]
    return parts


def _tap_line(tap: str, trials: Sequence[TrialResult]) -> str:
    entries = [trial.taps[tap] for trial in trials]

    def mean(name: str) -> float:
        return math.fsum(getattr(entry, name) for entry in entries) / len(entries)

    def share(name: str) -> str:
        ratios = [
            entry.alpha * value / entry.seg_gradient
            for entry in entries
            if (value := getattr(entry, name)) is not None and entry.seg_gradient > 0
        ]
        return f"{math.fsum(ratios) / len(ratios):.3f}" if ratios else "–"

    distances = " | ".join(
        f"{mean(name):.3g}" for name in ("within", "shift_foreground", "shift_background")
    )
    apart, drift = (
        f"{mean(f'{name}_foreground'):.3g}, {mean(f'{name}_background'):.3g}"
        for name in ("apart", "drift")
    )
    return (
        f"| {tap} | {mean('alpha'):.4f} | {100 * mean('valid'):.0f} % | {share('fd_gradient')} | "
        f"{share('exch_gradient')} | {distances} | {apart} | {drift} |"
    )
