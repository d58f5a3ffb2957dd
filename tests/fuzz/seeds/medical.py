"""Seeds of DICOM files and of outlines."""

from __future__ import annotations

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from tests.fuzz.seeds.kinds import Seeds

_UID = "1.2.826.0.1.3680043.8.498.1"
_BOX = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((1, 1), (6, 1), (6, 5), (1, 5)))


def medical() -> Seeds:
    """Noise of six by five pixels as DICOM, and a box or two as XML."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 6), dtype=np.uint8)
    deep = grey.astype(np.uint16) * 16
    yield "dicom", "grey", _dicom(grey)
    yield "dicom", "mask", _dicom((grey > 128).astype(np.uint8))
    yield "dicom", "colour", _dicom(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    yield "dicom", "window", _dicom(deep, WindowCenter=[1500, 40], WindowWidth=[900, 80])
    yield (
        "dicom",
        "sigmoid",
        _dicom(deep, WindowCenter=1500, WindowWidth=900, VOILUTFunction="SIGMOID"),
    )
    yield (
        "dicom",
        "rescaled",
        _dicom(deep, RescaleSlope=-2, RescaleIntercept=100, PixelSpacing=[0.2, 0.1], PatientID="p"),
    )
    yield "dicom", "inverse", _dicom(grey, PhotometricInterpretation="MONOCHROME1")
    yield "dicom", "frames", _dicom(np.zeros((2, 5, 6), dtype=np.uint8), NumberOfFrames=2)
    yield "dicom", "rle", _dicom(grey, compressed=True)
    yield "outlines", "box", _xml(f"<Region><Vertices>{_BOX}</Vertices></Region>")
    yield (
        "outlines",
        "hole",
        _xml(
            f"<Region><Vertices>{_BOX}</Vertices></Region>"
            f'<Region NegativeROA="1"><Vertices>{_BOX.replace("1", "3")}</Vertices></Region>'
        ),
    )
    yield "outlines", "click", _xml('<Region><Vertices><Vertex X="1" Y="1"/></Vertices></Region>')
    yield "outlines", "none", _xml("")
    yield "outlines", "entity", b'<!DOCTYPE a [<!ENTITY x "y">]><Annotations>&x;</Annotations>'


def _xml(regions: str) -> bytes:
    return (
        f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>".encode()
    )


def _dicom(levels: np.ndarray, *, compressed: bool = False, **attributes: object) -> bytes:
    colour = levels.ndim == 3 and levels.shape[-1] == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = _UID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, _UID
    dataset.Rows, dataset.Columns = levels.shape[-3:-1] if colour else levels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * levels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PixelData = levels.tobytes()
    dataset["PixelData"].VR = "OW" if levels.dtype.itemsize > 1 else "OB"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    if compressed:
        dataset.compress(RLELossless)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
