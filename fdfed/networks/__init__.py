"""Segmentation networks that yield logits and named feature maps (taps)."""

from fdfed.networks.attention_unet import AttentionUNet
from fdfed.networks.base import Norm, SegmentationNetwork, Taps
from fdfed.networks.create import NETWORK_NAMES, create_network
from fdfed.networks.unet import UNet

__all__ = [
    "NETWORK_NAMES",
    "AttentionUNet",
    "Norm",
    "SegmentationNetwork",
    "Taps",
    "UNet",
    "create_network",
]
