"""What a model is worth: scores per image and site, a run's results, its report, predictions."""

from fdfed.evaluation.aggregates import Aggregate, ImageScore, aggregate
from fdfed.evaluation.results import (
    ExchangeResult,
    ImageRow,
    PrivacyResult,
    RoundRecord,
    RunResults,
    SiteResult,
    SiteRound,
    TapLoss,
    Traffic,
    library_versions,
)
from fdfed.evaluation.results_files import (
    load_per_image,
    load_results,
    write_images_csv,
    write_results,
    write_rounds_csv,
)

__all__ = [
    "Aggregate",
    "ExchangeResult",
    "ImageRow",
    "ImageScore",
    "PrivacyResult",
    "RoundRecord",
    "RunResults",
    "SiteResult",
    "SiteRound",
    "TapLoss",
    "Traffic",
    "aggregate",
    "library_versions",
    "load_per_image",
    "load_results",
    "write_images_csv",
    "write_results",
    "write_rounds_csv",
]
