"""What the comparison leaves: CSV, a figure, `study.json`, and the results part of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fdfed.studies.baselines.agenda import Stage, agenda, done
from fdfed.studies.baselines.analysis import Analysis, Hypothesis, Lead, Row, analyse
from fdfed.studies.baselines.configuration import BASE, Comparison
from fdfed.studies.baselines.figure import draw_comparison
from fdfed.studies.page import about_intervals, percent, write_csv
from fdfed.studies.staged_report import Results, StagedReport

STUDY: Final = "baselines"
_STAGES: Final[Mapping[Stage, str]] = {
    "tuning": "tuning: validation folds, no test image is read",
    "rehearsal": "rehearsal: test patients among those that are **not** confirmatory",
    "confirmatory": "confirmatory",
}
_MEGABYTE: Final = 1e6


@dataclass(frozen=True, slots=True)
class Report(StagedReport[Analysis | None]):
    """Writes what a stage of the comparison has to say; of tuning there is no analysis."""

    @property
    def study(self) -> str:
        return STUDY

    @property
    def _comparison(self) -> Comparison:
        return self.configuration.content

    def document(self, results: Results, found: Analysis | None) -> Mapping[str, Any]:
        finished = done(self.stage, self._comparison, results)
        document: dict[str, Any] = {
            "trials": [
                {"trial": r.name, "group": r.group, "method": r.method, "seed": r.seed}
                for seeds in finished.values()
                for r in seeds.values()
            ],
        }
        if found is None:
            document["tuning"] = self._tuning(results)
        else:
            document |= {
                "rows": [asdict(row) for row in found.rows],
                "leads": [asdict(lead) for lead in found.leads],
                "hypotheses": [asdict(entry) for entry in found.hypotheses],
                "detectable_effect": found.detectable,
            }
        return document

    def section(self, results: Results, found: Analysis | None) -> str:
        comparison = self._comparison
        frozen = "frozen" if comparison.frozen else f"**not frozen** ({comparison.awaited})"
        parts = [
            f"Stage: {_STAGES[self.stage]}. Configuration {frozen}, SHA-256 "
            f"`{self.configuration.sha256}`. {self._progress(results)}"
        ]
        if found is None:
            return "\n\n".join([*parts, _tuning_table(self._tuning(results))]) + "\n"
        parts += ["### The two hypotheses", _hypotheses_table(found)]
        if any(lead.compared is not None for lead in found.leads):
            parts.append(f"![Leads and Dice by site]({STUDY}.svg)")
        for group in comparison.groups:
            parts += [
                f"### {group.capitalize()}",
                _rows_table([row for row in found.rows if row.group == group]),
            ]
        parts += ["### Leads over all sites", _leads_table(found, len(comparison.groups))]
        parts += about_intervals(lead.compared for lead in found.leads)
        weighted = [row for row in found.rows if row.alpha]
        if weighted:
            parts += ["### α in the last round, mean over seeds", _alpha_table(weighted)]
        return "\n\n".join(parts) + "\n"

    def _progress(self, results: Results) -> str:
        asked = agenda(self.stage, comparison=self._comparison)
        count = sum(trial.name in results for trial in asked)
        return (
            f"{count} of {len(asked)} trials are finished; what is not is empty in the tables, and "
            "no figure of it is guessed."
        )

    def write_tables(
        self, folder: Path, results: Results, *, suffixes: Sequence[str]
    ) -> Analysis | None:
        if self.stage == "tuning":
            rows = self._tuning(results)
            write_csv(folder / "baselines-tuning.csv", list(rows[0]), rows)
            return None
        finished = done(self.stage, self._comparison, results)
        analysis = analyse(self._comparison, finished)
        table = [_csv_row(row, self._comparison) for row in analysis.rows]
        write_csv(folder / f"{STUDY}.csv", list(table[0]), table)
        leads = [_csv_lead(lead) for lead in analysis.leads if lead.compared is not None]
        if leads:
            write_csv(folder / f"{STUDY}-leads.csv", list(leads[0]), leads)
        images = [
            {
                "group": result.group, "method": result.method, "seed": result.seed,
                "site": image.site, "patient": image.patient, "image": image.image,
                "dice": image.dice, "iou": image.iou,
            }
            for seeds in finished.values()
            for result in seeds.values()
            for image in result.images
        ]  # fmt: skip
        if images:
            write_csv(folder / f"{STUDY}-images.csv", list(images[0]), images)
        for suffix in suffixes:
            draw_comparison(folder / f"{STUDY}.{suffix}", analysis, ours=self._comparison.ours)
        return analysis

    def _tuning(self, results: Results) -> list[dict[str, Any]]:
        """Every candidate that was asked for, with its score on the validation fold."""
        found = []
        for trial in agenda("tuning", self._comparison):
            result = results.get(trial.name)
            chosen = self._comparison.methods[trial.method].chosen
            found.append(
                {
                    "method": trial.method,
                    "candidate": trial.config,
                    "chosen": trial.config == chosen,
                    "dice": None if result is None else result.score or 0.0,
                    "trial": trial.name,
                }
            )
        return found


def _csv_row(row: Row, comparison: Comparison) -> dict[str, Any]:
    values: dict[str, Any] = {
        key: getattr(row, key)
        for key in (
            "group", "method", "role", "primary", "seeds", "asked", "mean_dice", "worst_site",
            "gain", "recovered", "bytes", "seconds", "epsilon", "diverged", "unscored",
        )
    }  # fmt: skip
    sites = [site for group in comparison.groups.values() for site in group.sites]
    values |= {f"dice {site}": row.dice.get(site) for site in sites}
    return values | {f"iou {site}": row.iou.get(site) for site in sites}


def _csv_lead(lead: Lead) -> dict[str, Any]:
    found = lead.compared
    return {
        "over": lead.over,
        "role": lead.role,
        "groups": " ".join(lead.groups),
        "metric": lead.metric,
        "estimate": found and found.estimate,
        "low": found and found.low,
        "high": found and found.high,
        "p": found and found.p,
        "seeds": found and found.seeds,
        "patients": found and sum(found.patients.values()),
    }


def _hypotheses_table(analysis: Analysis) -> str:
    lines = ["| | claim | p | Holm | verdict |", "|---|---|---|---|---|"]
    for entry in analysis.hypotheses:
        lines.append(
            f"| {entry.name} | {entry.claim} | {_p(entry.p, entry.complete)} | "
            f"{_p(entry.adjusted, entry.complete)} | {_verdict(entry)} |"
        )
    effect = analysis.detectable
    lines += [
        "",
        "The effect that H1's test finds with 80 % power, by how much patients differ here: "
        + ("not known yet." if effect is None else f"{100 * effect:.1f} Dice points."),
    ]
    return "\n".join(lines)


def _verdict(entry: Hypothesis) -> str:
    if entry.p is None:
        return "no data"
    if not entry.complete:
        return "cells are missing: not confirmed"
    adjusted = 1.0 if entry.adjusted is None else entry.adjusted
    return "**confirmed** at 5 %" if adjusted <= 0.05 else "not confirmed"


def _p(value: float | None, complete: bool) -> str:
    if value is None:
        return "–"
    return f"{'' if complete else '≥ '}{value:.3g}"


def _rows_table(rows: Sequence[Row]) -> str:
    sites = list(dict.fromkeys(site for row in rows for site in row.dice))
    heads = ["method", "seeds", *(f"Dice / IoU {site}" for site in sites), "worst site"]
    heads += ["gain over max(local, pooled)", "recovered", "MB", "s", "ε"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row.method, f"{row.seeds} of {row.asked}"]
        cells += [f"{percent(row.dice.get(s))} / {percent(row.iou.get(s))}" for s in sites]
        cells += [percent(row.worst_site), percent(row.gain, sign="+")]
        cells.append("–" if row.recovered is None else f"{row.recovered:.2f}")
        cells.append("–" if row.bytes is None else f"{row.bytes / _MEGABYTE:.0f}")
        cells.append("–" if row.seconds is None else f"{row.seconds:.0f}")
        cells.append("none" if row.seeds else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _leads_table(analysis: Analysis, groups: int) -> str:
    lines = [
        "| over | role | seeds | lead in Dice (95 %) | p, one-sided | lead in IoU (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for lead in analysis.leads:
        if len(lead.groups) != groups or lead.metric != "dice":
            continue
        found, iou = lead.compared, analysis.lead(lead.over, "iou")
        seeds = "–" if found is None else str(found.seeds)
        p = "–" if found is None else f"{found.p:.3g}"
        lines.append(
            f"| {lead.over} | {lead.role} | {seeds} | {_interval(found)} | {p} | {_interval(iou)} |"
        )
    lines += ["", "Only H1 and H2 are tested; every p here is one comparison's own, unadjusted."]
    return "\n".join(lines)


def _alpha_table(rows: Sequence[Row]) -> str:
    taps = list(dict.fromkeys(tap for row in rows for tap in row.alpha))
    lines = ["| | method | " + " | ".join(taps) + " |", "|---|---|" + "---|" * len(taps)]
    for row in rows:
        cells = (f"{row.alpha[tap]:.4f}" if tap in row.alpha else "–" for tap in taps)
        lines.append(f"| {row.group} | {row.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(found: Any) -> str:
    if found is None:
        return "–"
    low, high = percent(found.low, sign="+"), percent(found.high, sign="+")
    return f"{percent(found.estimate, sign='+')} ({low} to {high})"


def _tuning_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| method | candidate | Dice on the validation fold | chosen |", "|---|---|---|---|"]
    for row in rows:
        mark = "yes" if row["chosen"] else ""
        name = "base" if row["candidate"] == BASE else row["candidate"]
        lines.append(f"| {row['method']} | {name} | {percent(row['dice'])} | {mark} |")
    return "\n".join(lines)
