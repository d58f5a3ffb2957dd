"""The paper's Figures 4 and 5: masks and features of single test images, without and with L_fd.

They show patients' images, so they go to the study's folder alone and never beside a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fdfed.data import SiteData
from fdfed.evaluation.figure_style import save_chart
from fdfed.evaluation.metrics import foreground
from fdfed.evaluation.whole_image import whole_image_logits
from fdfed.networks import SegmentationNetwork
from fdfed.simulation import open_sites
from fdfed.studies.baselines.agenda import Stage
from fdfed.studies.baselines.configuration import Configuration
from fdfed.studies.five_losses import WITH, WITHOUT
from fdfed.studies.observations.views import View
from fdfed.studies.page import rewrite_results, write_document
from fdfed.studies.scored_images import ScoredImage
from fdfed.studies.trials import Trial, TrialResult, final_network, folder_of

Kind = Literal["figure4", "figure5"]
Results = Mapping[str, TrialResult]

TITLES: Final[Mapping[Kind, str]] = {
    "figure4": "Masks without and with L_fd, errors marked",
    "figure5": "Mean over channels of the features at the bottleneck and the last decoder",
}
_MISSED: Final = (0.835, 0.369, 0.0)
_FALSE: Final = (0.0, 0.447, 0.698)
_HIT: Final = (1.0, 1.0, 1.0)


def view_of(kind: Kind) -> View:
    """The runs that the pictures show: those without and with L_fd, of one seed."""
    return View(kind, TITLES[kind], lambda _: [], seeds=1)


@dataclass(frozen=True, slots=True)
class PictureReport:
    """Draws the worst, the median and the best test image of every site, by the run without L_fd.

    Args:
        data: folder of the images.
    """

    kind: Kind
    stage: Stage
    configuration: Configuration
    data: Path

    def write_study(self, out: Path, results: Results) -> None:
        """PNG files in `out`/<kind>, one an image, and `study.json`."""
        drawn = []
        for group in self.configuration.content.groups:
            before, after = (self._trial(group, name) for name in (WITHOUT, WITH))
            if before.name not in results or after.name not in results:
                continue
            networks = {
                name: final_network(folder_of(out, trial), trial.plan).eval()
                for name, trial in ((WITHOUT, before), (WITH, after))
            }
            for site, images in open_sites(before.plan, self.data).items():
                for place, name in chosen(results[before.name].images, site).items():
                    image, mask = _case(images, name)
                    path = out / self.kind / f"{site}-{place}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    draw = draw_masks if self.kind == "figure4" else draw_features
                    draw(path, image, mask, networks)
                    drawn.append({"site": site, "place": place, "image": name, "file": path.name})
        document = {"stage": self.stage, "title": TITLES[self.kind], "drawn": drawn}
        write_document(out, self.kind, document, configuration=self.configuration)

    def write_page(self, page: Path, results: Results) -> None:
        """Says where the pictures are: they are of patients and stay in the study's folder.

        Raises:
            InvalidInput: if the page is missing or lacks the two marks around the section.
        """
        asked = view_of(self.kind).design.agenda(self.stage, self.configuration.content)
        done = sum(trial.name in results for trial in asked)
        text = (
            f"{TITLES[self.kind]}. {done} of {len(asked)} trials are finished. The pictures are in "
            f"OUT/{self.kind}; they show patients' images and are not part of this page.\n"
        )
        rewrite_results(page, self.kind, lambda _: text, str)

    def _trial(self, group: str, name: str) -> Trial:
        design = view_of(self.kind).design
        variant = next(v for v in design.variants if v.name == name)
        return design.trial(self.stage, self.configuration.content, group, variant, seed=0)


def chosen(images: Sequence[ScoredImage], site: str) -> dict[str, str]:
    """The site's worst, median and best image by Dice."""
    ranked = sorted(
        (image for image in images if image.site == site and image.dice is not None),
        key=lambda image: image.dice or 0.0,
    )
    if not ranked:
        return {}
    places = {"worst": 0, "median": len(ranked) // 2, "best": len(ranked) - 1}
    return {name: ranked[place].image for name, place in places.items()}


def _case(site: SiteData, name: str) -> tuple[Tensor, Tensor]:
    for image, mask, names in site.evaluation_batches("test"):
        if name in names:
            row = names.index(name)
            return image[row : row + 1], mask[row : row + 1]
    raise LookupError(name)


@torch.no_grad()
def draw_masks(
    path: Path, image: Tensor, mask: Tensor, networks: Mapping[str, SegmentationNetwork]
) -> None:
    """The image, and for each network what it hit (white), missed (orange) and added (blue)."""
    pictures: dict[str, NDArray[Any]] = {"image": image[0].permute(1, 2, 0).numpy()}
    for name, network in networks.items():
        predicted = foreground(whole_image_logits(network, image))[0, 0].numpy()
        pictures[name] = errors(predicted, mask[0, 0].bool().numpy())

    def draw(axes: Sequence[Axes]) -> None:
        for panel, (name, picture) in zip(axes, pictures.items(), strict=True):
            _show(panel, name, picture)

    save_chart(path, draw, panels=len(pictures), width=3.2 * len(pictures), height=3.5)


def errors(predicted: NDArray[np.bool_], annotated: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`(h, w, 3)`: white where both, orange where only annotated, blue where only predicted."""
    picture = np.zeros((*predicted.shape, 3))
    picture[predicted & annotated] = _HIT
    picture[~predicted & annotated] = _MISSED
    picture[predicted & ~annotated] = _FALSE
    return picture


@torch.no_grad()
def draw_features(
    path: Path, image: Tensor, _mask: Tensor, networks: Mapping[str, SegmentationNetwork]
) -> None:
    """The image, and the mean over channels at two taps for each network, both of a tap on one
    scale."""
    maps: dict[str, dict[str, Float[Tensor, "height width"]]] = {}
    for name, network in networks.items():
        multiple = network.size_multiple
        height, width = image.shape[-2:]
        padding = (0, -width % multiple, 0, -height % multiple)
        _, taps = network.forward_with_taps(functional.pad(image, padding, mode="replicate"))
        last = network.tap_names[-1]
        for tap in ("Bot", last):
            maps.setdefault(tap, {})[name] = taps[tap][0].mean(0)

    def draw(axes: Sequence[Axes]) -> None:
        _show(axes[0], "image", image[0].permute(1, 2, 0).numpy())
        panels = iter(axes[1:])
        for tap, by_network in maps.items():
            values = torch.cat([m.flatten() for m in by_network.values()])
            for name, values_of in by_network.items():
                panel = next(panels)
                panel.imshow(
                    values_of.numpy(),
                    vmin=float(values.min()),
                    vmax=float(values.max()),
                    cmap="viridis",
                )
                _bare(panel, f"{tap}, {name}")

    panels = 1 + sum(len(by_network) for by_network in maps.values())
    save_chart(path, draw, panels=panels, width=2.6 * panels, height=3.0)


def _show(panel: Axes, title: str, picture: NDArray[Any]) -> None:
    grey = picture.ndim == 3 and picture.shape[2] == 1
    panel.imshow(picture[..., 0] if grey else picture, cmap="gray" if grey else None)
    _bare(panel, title)


def _bare(panel: Axes, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=9.5)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(visible=False)
