"""Weights and KV cache of fewer bits, as data that every exporter lowers."""

from edgetiny.quantize.blocks import ZERO_POINT, BlockWeight, dequantize, quantize_int8
from edgetiny.quantize.calibrate import calibrate
from edgetiny.quantize.channels import ChannelWeight, dequantize_channels
from edgetiny.quantize.kv import KVScales
from edgetiny.quantize.scheme import Scheme
from edgetiny.quantize.simulate import simulated
from edgetiny.quantize.weights import Stored, Weights
from edgetiny.quantize.windows import calibration_windows

__all__ = [
    "ZERO_POINT",
    "BlockWeight",
    "ChannelWeight",
    "KVScales",
    "Scheme",
    "Stored",
    "Weights",
    "calibrate",
    "calibration_windows",
    "dequantize",
    "dequantize_channels",
    "quantize_int8",
    "simulated",
]
