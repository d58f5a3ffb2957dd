"""A trained model in the formats of other programs: ONNX, and a MONAI bundle."""

from fdfed.export.bundle import PHANTOM_WARNING, write_bundle
from fdfed.export.onnx_model import TOLERANCE, write_onnx

__all__ = ["PHANTOM_WARNING", "TOLERANCE", "write_bundle", "write_onnx"]
