"""Segmentation networks that yield logits and named feature maps (taps)."""

from fdfed.networks.attention_unet import AttentionUNet
from fdfed.networks.base import Norm, SegmentationNetwork, Tap, Taps, TapSink
from fdfed.networks.cmunet import CMUNet
from fdfed.networks.create import NETWORK_NAMES, create_network
from fdfed.networks.nucleisegnet import NucleiSegNet
from fdfed.networks.swin_unet import SwinUNet
from fdfed.networks.transunet import TransUNet
from fdfed.networks.unet import UNet

__all__ = [
    "NETWORK_NAMES",
    "AttentionUNet",
    "CMUNet",
    "Norm",
    "NucleiSegNet",
    "SegmentationNetwork",
    "SwinUNet",
    "Tap",
    "TapSink",
    "Taps",
    "TransUNet",
    "UNet",
    "create_network",
]
