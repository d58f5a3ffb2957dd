"""Phantoms: pictures made by formula that stand in for patients' images."""

from fdfed.data.phantoms.specs import KNOWN_SITES, HistologySpec, UltrasoundSpec, spec_of
from fdfed.data.phantoms.writing import write_phantoms

__all__ = ["KNOWN_SITES", "HistologySpec", "UltrasoundSpec", "spec_of", "write_phantoms"]
