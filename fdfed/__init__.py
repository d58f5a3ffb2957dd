"""fdfed: hospitals train one segmentation network together; prototypes travel, images never do."""

__all__ = ["__version__"]

__version__ = "0.1.0"
