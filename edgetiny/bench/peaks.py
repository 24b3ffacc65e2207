"""Readings of the machine between rows: the one after a row is the one before the next."""

from edgetiny.bench.roofline import Reading
from edgetiny.measure import GemmDtype, gemm_peak, read_bandwidth
from edgetiny.measure.peaks import PeakDevice

_SECONDS = 1.0


class PeakReader:
    """Reads bandwidth and matrix products of one device, each for a second."""

    def __init__(self, threads: int, device: PeakDevice, seconds: float = _SECONDS) -> None:
        self._threads, self._device, self._seconds = threads, device, seconds
        self._last: Reading | None = None
        self._dtype: GemmDtype | None = None

    def before(self, dtype: GemmDtype) -> Reading:
        """Return the last reading, or a new one if that was of another type or there is none."""
        if self._last is None or self._dtype != dtype:
            return self.read(dtype)
        return self._last

    def read(self, dtype: GemmDtype) -> Reading:
        """Measure now."""
        self._last = Reading(
            read_bandwidth(self._threads, self._seconds, self._device),
            gemm_peak(dtype, self._threads, self._seconds, self._device),
        )
        self._dtype = dtype
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()  # the next row's process needs the room
        return self._last
