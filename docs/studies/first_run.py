"""Prints the table of `first-run.md` and draws its curves from the folders of finished runs.

python docs/studies/first_run.py RUN [RUN …] --figure docs/studies/first-run.svg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from fdfed.evaluation.results import RunResults
from fdfed.evaluation.results_files import load_results

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def table(runs: dict[str, RunResults]) -> str:
    """A Markdown table: test Dice and IoU by site, rounds, minutes, bytes."""
    sites = list(next(iter(runs.values())).sites)
    heads = [f"{site} Dice" for site in sites] + [f"{site} IoU" for site in sites]
    columns = ["run", *heads, "model of round", "rounds", "minutes", "MB up", "MB down"]
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, run in runs.items():
        scores = [
            f"{100 * (getattr(run.sites[s], k) or 0):.1f}" for k in ("dice", "iou") for s in sites
        ]
        rest = [
            str(run.model_round),
            str(len(run.rounds)),
            f"{run.seconds['total'] / 60:.1f}",
            f"{run.bytes.up / 1e6:.0f}",
            f"{run.bytes.down / 1e6:.0f}",
        ]
        rows.append("| " + " | ".join([name, *scores, *rest]) + " |")
    return "\n".join(rows)


def draw(runs: dict[str, RunResults], path: Path) -> None:
    """Validation Dice by round, a panel a site, a line a run."""
    sites = list(next(iter(runs.values())).sites)
    figure, axes = plt.subplots(1, len(sites), figsize=(4.5 * len(sites), 3.2), sharey=True)
    for axis, site in zip(axes, sites, strict=True):
        for colour, (name, run) in zip(COLOURS, runs.items(), strict=False):
            known = [r for r in run.rounds if r.sites[site].val_dice is not None]
            dice = [r.sites[site].val_dice for r in known]
            axis.plot([r.round for r in known], dice, color=colour, label=name, linewidth=1.4)
            switch = next((r.round for r in run.rounds if r.phase == 2), None)
            if switch is not None:
                axis.axvline(switch - 0.5, color=colour, linestyle=":", linewidth=1)
        axis.set_title(site)
        axis.set_xlabel("round")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation Dice")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path, required=True)
    options = parser.parse_args()
    runs = {folder.name: load_results(folder / "results.json") for folder in options.runs}
    print(table(runs))
    draw(runs, options.figure)


if __name__ == "__main__":
    main()
