"""The report of a run."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.case_pictures import CaseView, extremes
from fdfed.evaluation.joining import MODELS, Joining, OwnScore
from fdfed.evaluation.report import render_report, write_report
from fdfed.evaluation.results import (
    ExchangeResult,
    ImageRow,
    PrivacyResult,
    RoundRecord,
    RunResults,
    SitePrivacy,
    SiteResult,
    SiteRound,
    TapLoss,
    Traffic,
)

TAPS = ("Enc1", "Bot", "Dec1")
SITES = ("udiat", "tnbc", "monuseg")


def results_of(plan: RunPlan) -> RunResults:
    """A plausible run of `plan`."""
    rounds = tuple(
        RoundRecord(
            round=number,
            phase=plan.phase(number),
            sites={
                site: SiteRound(loss_seg=2 / number, loss_fd=1.0, val_dice=1 - 1 / (number + 1))
                for site in plan.sites
            },
            alpha=dict.fromkeys(TAPS, 0.002 if plan.phase(number) == 2 else 0.0),
            losses={tap: TapLoss(fd=1 / number, exch=0.5 / number) for tap in TAPS},
            seconds=1.5,
            bytes=Traffic(up=100, down=100),
        )
        for number in range(1, plan.rounds + 1)
    )
    return RunResults(
        sites={
            site: SiteResult(
                **{"dice": 0.8125, "iou": 0.6875, "dice_sd": 0.0625, "n_scored": 9},
                **{"n_train": 30, "n_val": 4, "n_test": 9},
            )
            for site in plan.sites
        },
        rounds=rounds,
        alpha=dict.fromkeys(TAPS, 0.002),
        exchange=ExchangeResult(steps=40, answered=38, peers_mean=1.95, swap_ms_p50=1.25),
        bytes=Traffic(up=1_500_000, down=2_500_000),
        seconds={"total": 75.0},
        config=plan.model_dump(mode="json"),
        versions={"fdfed": "0.0.test"},
        best_round=plan.rounds,
    )


PLAN = RunPlan(sites=SITES, rounds=7)
RESULTS = results_of(PLAN)


@cache
def plain() -> str:
    """The page of that run, which a coordinator has."""
    return render_report(RESULTS)


@cache
def with_a_case() -> str:
    """The same with a picture, as a site has it."""
    return render_report(RESULTS, cases=[view("a", 0.5)])


def view(name: str, dice: float, *, site: str = "udiat") -> CaseView:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 2:5] = True
    image = np.full((8, 8, 1), 0.5, dtype=np.float32)
    probability = mask * np.float32(0.9)
    return CaseView(
        site=site, name=name, image=image, mask=mask, probability=probability, dice=dice
    )


class Page(HTMLParser):
    """The parts of a page that the tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.labelled: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags[tag] += 1
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag == "svg":
            self.labelled.append(values)
        if tag not in ("meta", "link", "br", "image", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_the_page_asks_nothing_of_a_network() -> None:
    html = render_report(RESULTS, cases=[view("a", 0.5), view("b", 0.75)])
    outside = [a for a in Page(html).addresses if not a.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    styles = "".join(re.findall(r"<style.*?</style>", html, flags=re.DOTALL))
    assert "@import" not in styles
    assert "url(http" not in html
    assert "default-src 'none'" in html
    assert "<script" not in html


def test_every_element_is_closed_and_every_id_is_unique() -> None:
    page = Page(with_a_case())
    assert page.open == []
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []


def test_every_figure_says_in_words_what_it_shows() -> None:
    page = Page(with_a_case())
    # Dice, validation, two losses, α, seconds, one panel a tap, one case.
    assert len(page.labelled) == 6 + len(TAPS) + 1
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.labelled)
    labels = " ".join(svg["aria-label"] or "" for svg in page.labelled)
    assert "udiat: 0.500 in round 1, 0.875 in round 7" in labels
    assert "Best round: 7" in labels


def test_the_table_of_sites_shows_mean_spread_and_count() -> None:
    html = plain()
    assert html.count("<b>0.812</b> ± 0.062") == len(SITES)
    assert "0.688" in html
    assert '<th scope="col" class="n">Dice</th>' in html


JOINING = Joining(
    scores={model: OwnScore(validation=0.5, test=0.625) for model in MODELS},
    kept="alone",
    joined="fine_tuned",
    gain=-0.05,
    low=-0.09,
    high=-0.01,
    images=12,
    patients=4,
    patients_known=True,
    steps=1234,
    fine_tuning_steps=4,
)


def test_each_hospital_is_told_whether_joining_helped_it() -> None:
    page = render_report(replace(RESULTS, joining={"tnbc": JOINING}))
    text = re.sub(r"\s+", " ", page).replace("&#39;", "'")
    assert "Joining did not help tnbc: on 12 test images of 4 patients" in text
    assert "95 % interval −0.090 to −0.010 over patients" in text
    assert "<b>the model trained here alone</b> (kept)" in text
    assert "made 1234 steps" in text
    assert "Gain in test Dice by joining: tnbc -0.050, from -0.090 to -0.010" in text
    assert Page(page).open == []
    assert "Did joining help?" not in plain()


def test_the_sites_are_compared_pair_by_pair_at_each_tap_of_the_newest_round_that_did() -> None:
    def record(number: int, value: float) -> RoundRecord:
        terms = {"udiat tnbc": {"Bot": value}, "udiat udiat": {"Bot": 0.5}}
        return replace(RESULTS.rounds[number], pairs=terms)

    rounds = (record(0, 9.0), record(1, -1.25), *RESULTS.rounds[2:])
    html = render_report(replace(RESULTS, rounds=rounds))
    assert "How alike the sites are" in html
    assert "Bot: udiat and tnbc -1.25; udiat within itself 0.50 nats." in html
    assert "9.00" not in html
    assert "How alike the sites are" not in plain()


def test_the_network_s_activity_is_drawn_for_the_worst_and_the_best_case_on_one_scale() -> None:
    def seen(name: str, dice: float, level: float) -> CaseView:
        heat = np.full((2, 2), level)
        heat[0, 0] = 0.0
        return replace(view(name, dice), heat={"Bot": heat, "Dec1": heat})

    (found,) = extremes([seen("a", 0.2, 1.0), seen("b", 0.9, 4.0), seen("c", 0.5, 9.0)])
    assert [row.title for row in found.heat] == ["a · Dice 0.200", "b · Dice 0.900"]
    captions = [picture.caption for row in found.heat for picture in row.pictures]
    assert captions == [f"{tap}: 0.00 (dark) to 4.00 (bright)" for tap in ("Bot", "Dec1")] * 2
    assert "within the annotation and" in found.heat[0].pictures[0].alt
    html = render_report(RESULTS, cases=[seen("a", 0.2, 1.0), seen("b", 0.9, 4.0)])
    assert "Where the network is active" in html
    assert Page(html).open == []


def test_a_site_s_epsilon_is_in_a_table_and_a_curve() -> None:
    spent = SitePrivacy(epsilon=3.25, delta=0.0194, unit="patient", units=36)
    private = PrivacyResult(
        differential_privacy=True, epsilon=3.25, delta=0.0194, sites={"udiat": spent}
    )
    rounds = tuple(
        replace(
            record, sites={"udiat": SiteRound(privacy=replace(spent, epsilon=float(record.round)))}
        )
        for record in RESULTS.rounds
    )
    html = render_report(replace(RESULTS, privacy=private, rounds=rounds))
    assert '<td class="n">3.25</td><td class="n">0.019</td><td>patient</td>' in html
    assert "udiat: 1.000 in round 1, 7.000 in round 7" in html


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 64}, "<dd>64 × 64 pixels"),
        ({"crop": 32}, "<dd>crops of 32 × 32 pixels at native resolution"),
        (
            {"learning_rate": 0.002, "learning_rate_schedule": "constant"},
            "learning rate 0.002, ",
        ),
        ({"learning_rate": 0.001}, "learning rate 0.001 falling (poly), "),
    ],
)
def test_what_was_trained_on_and_how_fast_is_said(changes: dict[str, object], said: str) -> None:
    plan = RunPlan.model_validate({"sites": SITES, "rounds": 4} | changes)
    assert said in render_report(results_of(plan))


def test_a_run_on_phantoms_says_so_before_anything_else() -> None:
    loud = render_report(replace(RESULTS, phantoms=True))
    assert loud.index("Phantoms, not patients.") < loud.index("<h1>")
    assert "Phantoms, not patients." not in plain()


def test_a_page_with_images_says_that_it_is_not_for_passing_on() -> None:
    assert "Not for passing on." in with_a_case()
    assert "Not for passing on." not in plain()


def test_a_coordinators_page_holds_no_image_and_no_image_name() -> None:
    html = plain()
    assert "Worst and best cases" not in html
    assert "Every test image" not in html


def test_without_differential_privacy_no_epsilon_is_claimed() -> None:
    assert "No differential privacy: no ε is claimed." in plain()
    # Between tags: embedded figures are text of every letter.
    assert "ε =" not in re.sub(r"<svg.*?</svg>", "", plain(), flags=re.S)


def test_each_sites_epsilon_is_said_with_what_it_does_not_cover() -> None:
    spent = SitePrivacy(epsilon=3.25, delta=0.0194, unit="patient", units=36)
    private = PrivacyResult(
        differential_privacy=True, epsilon=3.25, delta=0.0194, sites={"udiat": spent}
    )
    text = render_report(replace(RESULTS, privacy=private))
    assert "udiat ε = 3.25 at δ = 0.019, for any one patient of its 36 training patients" in text
    assert "weak promise" in text
    assert "The run is not exact" in text
    assert "the weights left without noise" in text
    covered = replace(private, weights_protected=True, stopped="the budget of udiat is spent")
    text = render_report(replace(RESULTS, privacy=covered))
    assert "the weights left without noise" not in text
    assert "trained by DP-SGD" in text
    assert "Not all rounds were trained: the budget of udiat is spent" in text


@pytest.mark.parametrize(
    ("plan", "said", "unsaid"),
    [
        (PLAN, "readable by the coordinator", "With two sites"),
        (PLAN.model_copy(update={"sites": SITES[:2]}), "With two sites", "pooled"),
        (RunPlan(sites=SITES, strategy="fedavg"), "sees each site's own", "(prototypes)"),
        (
            RunPlan(sites=SITES, strategy="pooled"),
            "Nothing: the images were pooled",
            "(prototypes)",
        ),
        (RunPlan(sites=SITES, strategy="local"), ", and the weights", "sees each site's own"),
        (RunPlan(sites=SITES, strategy="fedbn"), "running statistics", "(prototypes)"),
        (
            RunPlan(sites=SITES, strategy="fedbn", norm="group"),
            ", and the normalisation layers.",
            "running statistics",
        ),
    ],
)
def test_what_left_a_site_follows_from_the_plan(plan: RunPlan, said: str, unsaid: str) -> None:
    html = render_report(results_of(plan)).replace("&#39;", "'")
    assert said in html
    assert unsaid not in html


def test_blinded_and_sealed_prototypes_are_described_as_such() -> None:
    privacy = PrivacyResult(transport="mTLS", sealed=True, blinded=True, secure_aggregation=True)
    html = render_report(replace(RESULTS, privacy=privacy))
    assert "Messages travelled over mTLS." in html
    assert "it learns their distances, not the prototypes (encrypted" in html
    assert "the coordinator sees the sum over sites" in html
    assert "under the same masks: the mean losses, a proposal for the weight" in html


def test_withheld_scores_are_named_and_leave_the_mean_to_the_other_sites() -> None:
    withheld = SiteResult(dice=None, iou=None, n_train=9, n_val=1, n_test=2)
    html = render_report(replace(RESULTS, sites={**RESULTS.sites, "tnbc": withheld}))
    assert "withheld: fewer than" in html
    assert html.count("<b>0.812</b>") == 3  # two sites and their mean


def test_a_site_that_never_told_its_validation_dice_is_named_and_not_drawn() -> None:
    rounds = tuple(
        replace(record, sites={**record.sites, "tnbc": SiteRound(loss_seg=1.0)})
        for record in RESULTS.rounds
    )
    html = render_report(replace(RESULTS, rounds=rounds))
    assert "Withheld, for too few validation images: tnbc." in html


def test_rounds_that_went_wrong_are_listed() -> None:
    first = RESULTS.rounds[0]
    refused = SiteRound(refused="the norm of the update is 812")
    rounds = (
        replace(first, attempt=3, sites={"udiat": first.sites["udiat"], "tnbc": refused}),
        *RESULTS.rounds[1:],
    )
    html = render_report(replace(RESULTS, rounds=rounds))
    assert "Round 1: met its quorum on attempt 3." in html
    assert "Round 1: update of tnbc left out: the norm of the update is 812." in html
    assert "Round 1: without monuseg." in html


def test_names_from_files_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>\"'&"
    row = ImageRow(site="udiat", name=evil, dice=0.5, iou=0.4, foreground_pixels=2, empty=False)
    html = render_report(RESULTS, cases=[view(evil, 0.5)], per_image=[row])
    assert "<script" not in html
    assert Page(html).open == []


def test_a_run_without_any_round_still_has_a_page() -> None:
    bare = replace(RESULTS, rounds=(), alpha={}, best_round=None, seconds={}, versions={})
    page = Page(render_report(replace(bare, exchange=ExchangeResult())))
    assert page.open == []


def test_excluded_images_come_last_in_the_table() -> None:
    scores = {"good": 0.75, "normal": math.nan, "bad": 0.25}
    rows = [
        ImageRow(site="udiat", name=n, dice=d, iou=d, foreground_pixels=1, empty=math.isnan(d))
        for n, d in scores.items()
    ]
    html = render_report(RESULTS, per_image=rows)
    order = [html.index(f">{name}</th>") for name in ("bad", "good", "normal")]
    assert order == sorted(order)


def test_worst_and_best_share_no_image_and_leave_out_excluded_ones() -> None:
    scores = {"a": 0.5, "b": 0.1, "c": math.nan, "d": 0.9, "e": 0.7, "f": 0.3}
    (found,) = extremes([view(name, dice) for name, dice in scores.items()])
    assert [picture.caption for picture in found.worst] == ["Dice 0.100 · b", "Dice 0.300 · f"]
    assert [picture.caption for picture in found.best] == ["Dice 0.900 · d", "Dice 0.700 · e"]


def test_a_single_scored_image_is_shown_once() -> None:
    (found,) = extremes([view("a", 0.5)])
    assert (len(found.worst), len(found.best)) == (1, 0)


def test_a_config_that_is_no_plan_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"config in the results.*\n.*rounds"):
        render_report(replace(RESULTS, config={"rounds": -1}))


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, RESULTS, cases=[view("a", 0.5)])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
