"""The studies that look at the same runs, without and with L_fd, in the paper's ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fdfed.studies.five_losses import MATCHED, WITH, WITHOUT, Recipe
from fdfed.studies.observations import figures, tables
from fdfed.studies.observations.measures import (
    averaged,
    correlation,
    mediated_share,
    moved,
    share_within_bound,
)
from fdfed.studies.scored_images import ScoredImage
from fdfed.studies.trials import TrialResult
from fdfed.studies.variants.design import Design, Variant

Rows = list[dict[str, Any]]
BySeed = Mapping[int, TrialResult]


@dataclass(frozen=True, slots=True)
class Seen:
    """The runs of one study, by group: without and with L_fd."""

    without: Mapping[str, BySeed]
    with_loss: Mapping[str, BySeed]

    @property
    def groups(self) -> tuple[str, ...]:
        """Those that have a finished run on both sides."""
        return tuple(g for g in self.without if self.without[g] and self.with_loss.get(g))

    def images(self, *, trained: bool) -> dict[str, list[ScoredImage]]:
        """Every test image once, averaged over the seeds that both sides have."""
        found = {}
        for group in self.groups:
            runs = self.with_loss[group] if trained else self.without[group]
            seeds = self.without[group].keys() & self.with_loss[group].keys()
            found[group] = averaged(runs[seed].images for seed in sorted(seeds))
        return {group: images for group, images in found.items() if images}


@dataclass(frozen=True, slots=True)
class View:
    """One table or figure of the paper."""

    name: str
    title: str
    rows: Callable[[Seen], Rows]
    """What its CSV holds."""
    draw: Callable[[Path, Seen], None] | None = None
    """Given the picture's path and the runs."""
    note: str = ""
    published: Rows | None = None
    seeds: int = 3

    @property
    def design(self) -> Design:
        """The runs that it looks at: those of the comparison, where both have one folder."""
        return Design(
            name=self.name,
            title=self.title,
            variants=(
                Variant(name=WITHOUT, recipe=MATCHED),
                Variant(name=WITH, recipe=Recipe("fd"), against=WITHOUT),
            ),
            seeds=self.seeds,
        )


def _correlations(seen: Seen) -> Rows:
    rows = []
    for trained in (False, True):
        for group, images in seen.images(trained=trained).items():
            for tap in images[0].discrepancy:
                found = correlation(images, tap)
                rows.append(
                    {
                        "group": group,
                        "trained_with": WITH if trained else WITHOUT,
                        "tap": tap,
                        **_estimate("r", asdict(found.pearson)),
                        **_estimate("rho", asdict(found.spearman)),
                        "slope": found.slope,
                        "images": found.images,
                        "patients": found.patients,
                    }
                )
    return rows


def _estimate(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: values["value"], f"{name}_low": values["low"], f"{name}_high": values["high"],
    }  # fmt: skip


def _alpha_rows(seen: Seen) -> Rows:
    rows = []
    before, after = (seen.images(trained=trained) for trained in (False, True))
    for group in after:
        alpha = _alpha(seen)[group]
        for tap, weight in alpha.items():
            means = {}
            for name, images in (("without", before[group]), ("with", after[group])):
                values = [i.discrepancy[tap] for i in images if tap in i.discrepancy]
                means[f"l_fd_{name}"] = sum(values) / len(values) if values else None
            rows.append({"group": group, "tap": tap, "alpha": weight, **means})
    return rows


def _alpha(seen: Seen) -> dict[str, dict[str, float]]:
    """The mean over seeds of the final α, by group and tap."""
    found = {}
    for group in seen.groups:
        runs = list(seen.with_loss[group].values())
        found[group] = {
            tap: sum(r.alpha.get(tap, 0.0) for r in runs) / len(runs) for tap in runs[0].alpha
        }
    return found


def _draw_figure_2(path: Path, seen: Seen) -> None:
    before, after = (seen.images(trained=trained) for trained in (False, True))
    figures.draw_alpha(path, after, _alpha(seen))
    figures.draw_histograms(path.with_stem(f"{path.stem}-histograms"), before, after)


def _moves(seen: Seen) -> Rows:
    before, after = (seen.images(trained=trained) for trained in (False, True))
    return [
        {"group": group, "tap": tap, "lower_l_fd_and_higher_dice": moved(images, after[group], tap)}
        for group, images in before.items()
        for tap in images[0].discrepancy
    ]


def _gains(seen: Seen) -> Rows:
    rows = []
    for group in seen.groups:
        for row in tables.by_difficulty(seen.without[group], seen.with_loss[group]):
            if row["images"] == "all":
                rows.append({"site": row["site"], "gain": row["dice_change"]})
    return rows


def _theory(seen: Seen) -> Rows:
    rows = []
    for trained in (False, True):
        for group, images in seen.images(trained=trained).items():
            for tap in images[0].discrepancy:
                mediated = mediated_share(images, tap)
                rows.append(
                    {
                        "group": group,
                        "trained_with": WITH if trained else WITHOUT,
                        "kind": "tap",
                        "of": tap,
                        "share_within_eq_2": share_within_bound(images, tap),
                        **_estimate("mediated", asdict(mediated)),
                        "spectral_norm": None,
                    }
                )
            rows += _spectral(seen, group, trained=trained)
    return rows


def _spectral(seen: Seen, group: str, *, trained: bool) -> Rows:
    runs = list((seen.with_loss if trained else seen.without)[group].values())
    return [
        {
            "group": group,
            "trained_with": WITH if trained else WITHOUT,
            "kind": "layer",
            "of": layer,
            "share_within_eq_2": None,
            **_estimate("mediated", {"value": None, "low": None, "high": None}),
            "spectral_norm": sum(r.spectral_norms[layer] for r in runs) / len(runs),
        }
        for layer in runs[0].spectral_norms
        if all(layer in r.spectral_norms for r in runs)
    ]


def _by_group(table: Callable[[BySeed, BySeed], Rows]) -> Callable[[Seen], Rows]:
    def rows(seen: Seen) -> Rows:
        return [
            {"group": group, **row}
            for group in seen.groups
            for row in table(seen.without[group], seen.with_loss[group])
        ]

    return rows


def _named(values: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> Rows:
    return [{"of": name, **dict(zip(columns, row, strict=True))} for name, row in values.items()]


VIEWS: Final[Mapping[str, View]] = {
    view.name: view
    for view in (
        View(
            "table1",
            "The test images, and which of them are worst off",
            _by_group(lambda without, _: tables.datasets(without)),
            note="Published counts are of whole data sets, though called test samples, and its "
            "thresholds exclude some of its own Table 2. Here the runs without "
            "L_fd say which images are worst off; k is the paper's, at most a third of the images.",
            published=_named(
                tables.TABLE_1, ("type", "images", "worst_off", "threshold in percent")
            ),
        ),
        View(
            "table4",
            "Is the gain of L_fd more than chance?",
            _by_group(tables.significance),
            note="The one-sample test is the paper's and leaves out the spread of the runs without "
            "L_fd. Two-sided p, unadjusted.",
            published=_named(tables.TABLE_4, ("p_dice", "p_iou")),
            seeds=5,
        ),
        View(
            "figure1",
            "Dice against L_fd, image by image",
            _correlations,
            lambda path, seen: figures.draw_scatter(path, seen.images(trained=True)),
            note="The paper calls the correlation strong and gives no number. Fig. 1b is a "
            "schematic; `data-addition` and `unseen-site` are its experiments.",
        ),
        View(
            "figure2",
            "The final α of every tap; Dice and L_fd without and with the loss",
            _alpha_rows,
            _draw_figure_2,
            note="Published values are in the picture alone.",
        ),
        View(
            "figure6",
            "Gains of L_fd",
            _gains,
            lambda path, seen: figures.draw_gains(
                path,
                {r["site"]: 100 * r["gain"] for r in _gains(seen) if r["gain"] is not None},
            ),
            note="Published gains are over the best earlier model, ours over the same network and "
            "training without the loss.",
            published=[
                {"of": name, "gain in points": gain}
                for name, gain in figures.PUBLISHED_GAINS.items()
            ],
        ),
        View(
            "figure8",
            "Where an image moves with the loss",
            _moves,
            lambda path, seen: figures.draw_moves(
                path, seen.images(trained=False), seen.images(trained=True)
            ),
            note="By chance alone about a quarter of the images would, and half of them where L_fd "
            "falls for nearly all, as it does where it is trained for. Published values are in the "
            "picture alone.",
        ),
        View(
            "theory",
            "Eq. 2, spectral norms and mediation, as observations",
            _theory,
            note="None of it is a proof. Eq. 2 with k the annotated over the predicted pixels of "
            "an image, as its proof has it; the proof normalises the discrepancy, L_fd here does "
            "not. The mediated share assumes that nothing but the site drives both Z and Dice, and "
            "is undefined where sites do not differ.",
        ),
    )
}
