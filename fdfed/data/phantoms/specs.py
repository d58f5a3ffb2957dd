"""How each site's phantoms look: the shifts by which real sites differ, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fdfed.data.seeds import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class UltrasoundSpec:
    """A scanner, its settings and its patients. Lengths are fractions of the picture's side."""

    gain: float
    """Mean level of glandular tissue, in [0, 1]."""
    contrast: float
    """Levels per unit of log amplitude (the inverse of the dynamic range)."""
    speckle: tuple[float, float]
    """Size of a speckle grain (axial, lateral)."""
    blur: float
    """Standard deviation of the display's blur."""
    noise: float
    """Standard deviation of electronic noise in levels; it grows with depth."""
    attenuation: float
    """Fall of log amplitude from top to bottom that the gain curve leaves over."""
    lesion_radius: tuple[float, float]
    """Smallest and largest half axis of a lesion."""
    lesion_depth: float
    """Fall of log amplitude inside a lesion."""
    shadow: float
    """Fall of log amplitude behind a lesion; below zero the sound is enhanced (cysts)."""
    normals: float
    """Share of pictures without a lesion."""
    images_per_patient: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistologySpec:
    """A laboratory's stain, its scanner and its tissue. Lengths are fractions of the side."""

    target_stain: tuple[float, float, float]
    """Optical density of the segmented structure's dye in red, green and blue, of length 1."""
    ground_stain: tuple[float, float, float]
    """The same for the dye of everything else."""
    target_strength: float
    """Optical density of a nucleus (or plaque)."""
    ground_strength: float
    """Mean optical density of the stroma."""
    white: tuple[float, float, float]
    """Transmission of the empty slide in red, green and blue."""
    radius: tuple[float, float]
    """Smallest and largest mean radius of a nucleus."""
    cover: float
    """Share of the picture that nuclei cover, about."""
    chromatin: float
    """Relative variation of density inside a nucleus."""
    blur: float
    """Standard deviation of the optics' blur."""
    noise: float
    """Standard deviation of the sensor's noise in levels."""
    normals: float
    """Share of pictures without a target."""
    images_per_patient: int


Spec = UltrasoundSpec | HistologySpec

# Optical densities of haematoxylin, eosin and DAB: Ruifrok & Johnston 2001, Anal. Quant. Cytol.
# Histol. 23:291-299; each laboratory's own dye departs from them a little.
_SPECS: Final[dict[str, Spec]] = {
    "tnbc": HistologySpec(
        target_stain=(0.62, 0.71, 0.33),
        ground_stain=(0.10, 0.98, 0.17),
        target_strength=1.25,
        ground_strength=0.42,
        white=(0.97, 0.95, 0.97),
        radius=(0.042, 0.070),
        cover=0.20,
        chromatin=0.22,
        blur=0.004,
        noise=0.012,
        normals=0.0,
        images_per_patient=4,
    ),
    "monuseg": HistologySpec(
        target_stain=(0.70, 0.66, 0.27),
        ground_stain=(0.20, 0.93, 0.30),
        target_strength=1.20,
        ground_strength=0.50,
        white=(0.93, 0.91, 0.94),
        radius=(0.032, 0.052),
        cover=0.24,
        chromatin=0.20,
        blur=0.006,
        noise=0.018,
        normals=0.0,
        images_per_patient=1,
    ),
    "ad": HistologySpec(
        target_stain=(0.32, 0.57, 0.76),
        ground_stain=(0.63, 0.66, 0.41),
        target_strength=0.85,
        ground_strength=0.22,
        white=(0.94, 0.94, 0.91),
        radius=(0.060, 0.120),
        cover=0.12,
        chromatin=0.35,
        blur=0.007,
        noise=0.015,
        normals=0.1,
        images_per_patient=5,
    ),
    "udiat": UltrasoundSpec(
        gain=0.46,
        contrast=0.150,
        speckle=(0.008, 0.014),
        blur=0.004,
        noise=0.015,
        attenuation=0.8,
        lesion_radius=(0.10, 0.20),
        lesion_depth=1.7,
        shadow=0.7,
        normals=0.0,
        images_per_patient=1,
    ),
    "us-tnbc": UltrasoundSpec(
        gain=0.36,
        contrast=0.105,
        speckle=(0.013, 0.024),
        blur=0.008,
        noise=0.030,
        attenuation=1.5,
        lesion_radius=(0.13, 0.24),
        lesion_depth=1.5,
        shadow=-0.5,
        normals=0.0,
        images_per_patient=1,
    ),
    "busbra": UltrasoundSpec(
        gain=0.52,
        contrast=0.120,
        speckle=(0.010, 0.018),
        blur=0.006,
        noise=0.020,
        attenuation=1.0,
        lesion_radius=(0.11, 0.22),
        lesion_depth=1.8,
        shadow=0.3,
        normals=0.0,
        images_per_patient=2,
    ),
    "busuclm": UltrasoundSpec(
        gain=0.39,
        contrast=0.155,
        speckle=(0.007, 0.016),
        blur=0.005,
        noise=0.022,
        attenuation=0.5,
        lesion_radius=(0.10, 0.20),
        lesion_depth=1.9,
        shadow=0.6,
        normals=0.1,
        images_per_patient=6,
    ),
}

SPECS: Final = MappingProxyType(_SPECS)
KNOWN_SITES: Final = tuple(sorted(_SPECS))
"""Names of sites whose phantoms resemble the public data set of that name."""


def spec_of(site: str) -> Spec:
    """The looks of a site's phantoms.

    A name that is not in `KNOWN_SITES` is an ultrasound site whose scanner is drawn from a hash of
    the name: ultrasound always, so that a federation of invented names shares one task.
    """
    if site in SPECS:
        return SPECS[site]
    rng = generator("phantom site", site)

    def between(low: float, high: float) -> float:
        return round(float(rng.uniform(low, high)), 4)

    axial = between(0.007, 0.013)
    smallest = between(0.08, 0.13)
    return UltrasoundSpec(
        gain=between(0.30, 0.54),
        contrast=between(0.10, 0.17),
        speckle=(axial, round(axial * between(1.5, 2.2), 4)),
        blur=between(0.004, 0.008),
        noise=between(0.012, 0.030),
        attenuation=between(0.5, 1.5),
        lesion_radius=(smallest, round(smallest + between(0.08, 0.12), 4)),
        lesion_depth=between(1.4, 1.8),
        shadow=between(-0.5, 0.9),
        normals=0.0,
        images_per_patient=int(rng.integers(1, 4)),
    )
