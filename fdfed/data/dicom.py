"""DICOM files as pictures: the grey levels that a viewer would show, without any other attribute.

pydicom reads and decodes. Names, dates and numbers of the patient stay in the file; what is taken
beside the pixels is the patient's ID, as a hash, so that images of one person stay together.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from jaxtyping import Bool, Float, Shaped
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array

from fdfed.data.unusable import UnusablePicture

SUFFIXES: Final = frozenset({".dcm", ".dicom"})
OTHER_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
"""A file that is named so is never looked into for DICOM's mark."""
MOST_PIXELS: Final = 1 << 28
"""Of an image, before it is decoded: a compressed file can claim any size."""

_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_EXPORT: Final = "export it as PNG, or as DICOM of one frame"


_USED: Final = (
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "PatientID",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SequenceOfUltrasoundRegions",
    "WindowCenter",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
)
_CENTIMETRES: Final = 3
"""Code of the unit cm, PS3.3, C.8.5.5.1.15."""


def is_dicom(path: Path) -> bool:
    """Whether a file is to be read as DICOM: by its suffix or, as scanners and archives name files
    without one, by the mark that DICOM files bear (PS3.10, 7.1)."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix not in OTHER_SUFFIXES and _is_marked(path))


def _is_marked(path: Path) -> bool:
    # The table of contents of a disc bears the mark, and is no image.
    if path.name == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom_image(path: Path) -> Float[np.ndarray, "height width channels"]:
    """Pixels in [0, 1], float32, one channel or three, bright where a viewer shows bright.

    Grey levels go through the modality transform (rescale slope and intercept) and the first
    window, by the window's own function (PS3.3, C.11.2), or through the VOI table where the file
    has that alone; without either, all levels that its bits can hold are shown. MONOCHROME1 is
    turned over: there, low levels are bright.

    Raises:
        UnusablePicture: if the file is no single picture, or of a kind that is not shown here.
    """
    dataset = _opened(path)
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind not in (*_GREY, *_COLOUR):
        raise UnusablePicture(f"has pixels of kind {kind or 'unknown'}", _EXPORT)
    levels = _decoded(dataset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that are checked below
            if kind in _GREY:
                shown = _windowed(levels, dataset)
            elif kind == "PALETTE COLOR":
                table = apply_color_lut(levels, dataset)
                shown = table / float(np.iinfo(table.dtype).max)
            else:
                shown = levels / float((1 << int(dataset.BitsStored)) - 1)
    except Exception as err:
        raise UnusablePicture(
            f"has a window or table that cannot be applied ({_why(err)})", _EXPORT
        ) from err
    pixels = np.atleast_3d(np.clip(shown, 0, 1).astype(np.float32))
    if not np.isfinite(pixels).all() or pixels.shape[2] not in (1, 3):
        raise UnusablePicture("has a window that gives no grey levels", _EXPORT)
    return 1 - pixels if kind == "MONOCHROME1" else pixels


def read_dicom_mask(path: Path) -> Bool[np.ndarray, "height width"]:
    """Pixels of a mask that was saved as a DICOM picture of two levels, 0 and another.

    Raises:
        UnusablePicture: if it has more levels, or is no single picture (as a segmentation object).
    """
    dataset = _opened(path)
    levels = _decoded(dataset)
    values = np.unique(levels)
    if levels.ndim != 2 or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise UnusablePicture(
            f"has {len(values)} levels, where a mask has background 0 and foreground",
            "save the mask as 1-bit PNG",
        )
    mask: Bool[np.ndarray, "height width"] = levels > 0
    return mask


def dicom_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the header.

    Raises:
        UnusablePicture: if the header cannot be read.
    """
    dataset = _opened(path, pixels=False)
    return int(dataset.Rows), int(dataset.Columns)


def dicom_patient(path: Path) -> str | None:
    """A pseudonym for the file's patient ID; None where it has none or cannot be read.

    The same ID gives the same pseudonym at every site and time. It is a hash without a secret: it
    keeps IDs out of tables and messages, not from somebody who tries all IDs.
    """
    try:
        patient = str(_opened(path, pixels=False).get("PatientID", "") or "").strip()
    except UnusablePicture:
        return None
    return f"dicom-{hashlib.sha256(patient.encode()).hexdigest()[:12]}" if patient else None


def pixel_spacing(path: Path) -> tuple[float, float] | None:
    """(between rows, between columns) in mm; None where the file does not say.

    From the pixel spacing, or of an ultrasound image from its only calibrated region.
    """
    dataset = _opened(path, pixels=False)
    try:
        spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
        if spacing:
            rows, columns = (float(value) for value in spacing)
            return rows, columns
        regions = dataset.get("SequenceOfUltrasoundRegions") or []
        if len(regions) == 1 and regions[0].get("PhysicalUnitsXDirection") == _CENTIMETRES:
            return 10 * float(regions[0].PhysicalDeltaY), 10 * float(regions[0].PhysicalDeltaX)
    except Exception:  # a value of another kind, or one that cannot be converted
        return None
    return None


def _opened(path: Path, *, pixels: bool = True) -> pydicom.Dataset:
    """The data set, checked to be one picture of a size that can be held."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of odd values in any attribute
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
            for keyword in _USED:  # values are converted, and can fail, as they are asked for
                dataset.get(keyword)
            frames = int(dataset.get("NumberOfFrames") or 1)
            rows, columns = int(dataset.Rows), int(dataset.Columns)
    except InvalidDicomError as err:
        raise UnusablePicture(
            "is not a DICOM file, whatever its suffix says", "export it again, or rename it"
        ) from err
    except Exception as err:  # pydicom raises many types on broken bytes
        raise UnusablePicture(
            f"is damaged, or holds no picture ({_why(err)})", "export it again, or remove it"
        ) from err
    if frames != 1:
        raise UnusablePicture(
            f"holds {frames} frames, of which it cannot be known which were annotated",
            "export each annotated frame as a file of its own, with the mask of its name",
        )
    if not 0 < rows * columns <= MOST_PIXELS:
        raise UnusablePicture(f"claims to have {rows} x {columns} pixels", _EXPORT)
    return dataset


def _decoded(dataset: pydicom.Dataset) -> Shaped[np.ndarray, "height width *c"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pixel_array(dataset)  # YBR becomes RGB
    except Exception as err:  # as in _opened; also a codec that is not installed
        raise UnusablePicture(f"cannot be decoded ({_why(err)})", _EXPORT) from err


def _windowed(
    levels: Shaped[np.ndarray, "height width"], dataset: pydicom.Dataset
) -> Float[np.ndarray, "height width"]:
    values = apply_modality_lut(levels, dataset)
    if dataset.get("WindowCenter") not in (None, ""):
        shown = apply_voi_lut(values, dataset, index=0, prefer_lut=False)
        low, high = _range(dataset)
    elif dataset.get("VOILUTSequence"):
        shown = apply_voi_lut(values, dataset, index=0)
        low, high = 0.0, float((1 << int(dataset.VOILUTSequence[0].LUTDescriptor[2])) - 1)
    else:
        # A negative slope turns the order of the stored levels round, not that of the values.
        shown, (low, high) = values, sorted(_range(dataset))
    return (np.asarray(shown, dtype=np.float64) - low) / (high - low)


def _range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """What the lowest and the highest level that the stored bits can hold become by the modality
    transform; pydicom's windows span it."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float((1 << int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])) - 1)
    bits = int(dataset.BitsStored)
    low, high = 0, (1 << bits) - 1
    if int(dataset.PixelRepresentation) == 1:
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return float(low), float(high)
    return low * float(slope) + float(intercept), high * float(slope) + float(intercept)


def _why(err: Any) -> str:
    return (" ".join(str(err).split()) or type(err).__name__)[:160]
