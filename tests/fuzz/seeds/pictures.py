"""Seeds of pictures and patient lists."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.fuzz.seeds.kinds import Seeds


def pictures() -> Seeds:
    """Noise of six by five pixels in every accepted form, and patients."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 6), dtype=np.uint8)
    mask = ((grey > 128) * 255).astype(np.uint8)
    colour = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    made = {
        "grey": Image.fromarray(grey),
        "mask": Image.fromarray(mask),
        "bits": Image.fromarray(mask).convert("1"),
        "colour": Image.fromarray(colour),
        "palette": Image.fromarray(colour).convert("P", colors=4),
        "alpha": Image.fromarray(colour).convert("RGBA"),
        "deep": Image.fromarray(grey.astype(np.uint16) * 257),
    }
    for name, picture in made.items():
        yield "picture", f"{name}-png", _saved(picture, "PNG")
    for kind in ("JPEG", "BMP"):
        for name in ("grey", "mask", "colour"):
            yield "picture", f"{name}-{kind.lower()}", _saved(made[name], kind)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield (
            "picture",
            f"grey-tiff-{compression}",
            _saved(made["grey"], "TIFF", compression=compression),
        )
    pages = {"save_all": True, "append_images": [made["mask"]]}
    yield "picture", "pages-tiff", _saved(made["grey"], "TIFF", **pages)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "picture", "turned-jpeg", _saved(made["grey"], "JPEG", exif=exif)
    yield "patients", "two", b"image,mask,patient,subsite\na.png,a.png,p1,s\nb.png,,p2,\n"
    yield "patients", "faults", b"image,patient\na.png,\nb.png,p\nb.png,q\nc.png,r\n"
    yield "patients", "quoted", b'\xef\xbb\xbfpatient,image\n"p ""1""","a.png"\n'
    yield "patients", "no-column", b"a;b\n1;2\n"


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
