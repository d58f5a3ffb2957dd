"""fdfed: hospitals train one segmentation network together and exchange prototypes, never images."""

__all__ = ["__version__"]

__version__ = "0.1.0"
