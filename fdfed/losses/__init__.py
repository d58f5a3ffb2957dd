"""Losses as pure functions of tensors: segmentation, discrepancy within and across sites."""

from fdfed.losses.bounds import Bound
from fdfed.losses.discrepancy import feature_discrepancy_loss
from fdfed.losses.exchange import Form, exchange_cotangents, exchange_loss
from fdfed.losses.segmentation import segmentation_loss

__all__ = [
    "Bound",
    "Form",
    "exchange_cotangents",
    "exchange_loss",
    "feature_discrepancy_loss",
    "segmentation_loss",
]
