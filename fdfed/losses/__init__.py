"""Losses as functions of tensors: segmentation, discrepancy, and those it is compared with."""

from fdfed.losses.auxiliary import AuxiliaryLoss, Moment
from fdfed.losses.bounds import Bound
from fdfed.losses.contrastive import (
    GlobalHead,
    LocalHead,
    PixelContrast,
    global_contrastive_loss,
    local_contrastive_loss,
    supervised_pixel_loss,
)
from fdfed.losses.create import AUXILIARY_LOSS_NAMES, create_auxiliary_loss
from fdfed.losses.deep_supervision import (
    DeepSupervision,
    deep_supervision_loss,
    supervision_weight,
)
from fdfed.losses.discrepancy import feature_discrepancy_loss
from fdfed.losses.exchange import (
    Form,
    exchange_cotangents,
    exchange_loss,
    shifted_exchange_loss,
)
from fdfed.losses.gradient_scale import GradientScales, TapScale, gradient_norm, gradient_scales
from fdfed.losses.segmentation import segmentation_loss

__all__ = [
    "AUXILIARY_LOSS_NAMES",
    "AuxiliaryLoss",
    "Bound",
    "DeepSupervision",
    "Form",
    "GlobalHead",
    "GradientScales",
    "LocalHead",
    "Moment",
    "PixelContrast",
    "TapScale",
    "create_auxiliary_loss",
    "deep_supervision_loss",
    "exchange_cotangents",
    "exchange_loss",
    "feature_discrepancy_loss",
    "global_contrastive_loss",
    "gradient_norm",
    "gradient_scales",
    "local_contrastive_loss",
    "segmentation_loss",
    "shifted_exchange_loss",
    "supervised_pixel_loss",
    "supervision_weight",
]
