"""Clocks, spreads, memory and peaks of this machine. Importing measures and loads nothing."""

from edgetiny.measure.cuda import (
    cuda_free_bytes,
    cuda_frequency_hz,
    cuda_name,
    cuda_temperature_celsius,
)
from edgetiny.measure.energy import EnergyMeter
from edgetiny.measure.machine import cores, cpu_frequency_hz, llc_bytes, temperature_celsius
from edgetiny.measure.memory import (
    anonymous_rss_bytes,
    available_bytes,
    peak_rss_bytes,
    ram_bytes,
    reset_peak_rss,
    rss_bytes,
)
from edgetiny.measure.peaks import (
    GEMM_DTYPES,
    Bandwidth,
    GemmDtype,
    GemmPeak,
    gemm_peak,
    read_bandwidth,
)
from edgetiny.measure.spread import Spread, clock_ns, median, percentile, spread
from edgetiny.measure.threads import torch_threads

__all__ = [
    "GEMM_DTYPES",
    "Bandwidth",
    "EnergyMeter",
    "GemmDtype",
    "GemmPeak",
    "Spread",
    "anonymous_rss_bytes",
    "available_bytes",
    "clock_ns",
    "cores",
    "cpu_frequency_hz",
    "cuda_free_bytes",
    "cuda_frequency_hz",
    "cuda_name",
    "cuda_temperature_celsius",
    "gemm_peak",
    "llc_bytes",
    "median",
    "peak_rss_bytes",
    "percentile",
    "ram_bytes",
    "read_bandwidth",
    "reset_peak_rss",
    "rss_bytes",
    "spread",
    "temperature_celsius",
    "torch_threads",
]
