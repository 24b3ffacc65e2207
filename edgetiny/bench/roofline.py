"""How near a measured step comes to the limit of the machine it ran on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgetiny.cost import Precision, StepCost, roofline
from edgetiny.measure import Bandwidth, GemmDtype, GemmPeak

# Two readings of one machine agree this well, or something else was running.
PEAK_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class Peaks:
    """What the machine reached around a row: reads before and after it, products once."""

    before: Bandwidth
    after: Bandwidth
    gemm: GemmPeak | None

    @property
    def bytes_per_s(self) -> float:
        """The larger of the two readings: a neighbour can only make one smaller."""
        return max(self.before.bytes_per_s, self.after.bytes_per_s)

    @property
    def disagreement(self) -> float:
        """How much the readings differ, as a share of the larger."""
        smaller = min(self.before.bytes_per_s, self.after.bytes_per_s)
        return 1.0 - smaller / self.bytes_per_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """One decode step beside its limit. `doubts` is empty if the comparison can be believed."""

    step: StepCost
    peaks: Peaks
    predicted_step_s: float
    limited_by: Literal["memory", "compute"]
    measured_step_s: float
    mbu: float
    is_in_cache: bool
    doubts: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the bound as JSON values: sizes in bytes, rates per second, times in ms."""
        gemm = self.peaks.gemm
        return {
            "context": self.step.context,
            "bytes_per_step": round(self.step.total_bytes),
            "weight_bytes_per_step": round(self.step.weight_bytes),
            "kv_bytes_per_step": round(self.step.kv_bytes),
            "flops_per_step": round(self.step.flops),
            "read_bytes_per_s": self.peaks.bytes_per_s,
            "read_bytes_per_s_before": self.peaks.before.bytes_per_s,
            "read_bytes_per_s_after": self.peaks.after.bytes_per_s,
            "gemm_flops_per_s": None if gemm is None else gemm.flops_per_s,
            "gemm_dtype": None if gemm is None else gemm.dtype,
            "llc_bytes": self.peaks.before.llc_bytes,
            "in_cache": self.is_in_cache,
            "limited_by": self.limited_by,
            "predicted_step_ms": 1e3 * self.predicted_step_s,
            "measured_step_ms": 1e3 * self.measured_step_s,
            "mbu": self.mbu,
        }


def bound_of(step: StepCost, step_s: float, peaks: Peaks) -> Bound:
    """Compare a measured step time with the roofline.

    mbu: bytes of a step over its time and the bandwidth. A working set that the last-level cache
    holds is labelled, and may then exceed 1: memory is not what it was read from.
    """
    limit = roofline(
        step,
        bytes_per_s=peaks.bytes_per_s,
        flops_per_s=float("inf") if peaks.gemm is None else peaks.gemm.flops_per_s,
    )
    mbu = step.total_bytes / step_s / peaks.bytes_per_s
    llc_bytes = peaks.before.llc_bytes
    is_in_cache = llc_bytes is not None and step.total_bytes < llc_bytes
    doubts = []
    if peaks.disagreement > PEAK_TOLERANCE:
        doubts.append(
            f"bandwidth before and after differ by {peaks.disagreement:.0%}: other work was running"
        )
    if mbu > 1 and not is_in_cache:
        doubts.append(f"{mbu:.2f} of the bandwidth: more than there is, so one figure is wrong")
    return Bound(
        step=step,
        peaks=peaks,
        predicted_step_s=limit.step_s,
        limited_by=limit.bound,
        measured_step_s=step_s,
        mbu=mbu,
        is_in_cache=is_in_cache,
        doubts=tuple(doubts),
    )


GEMM_DTYPE: Mapping[Precision, GemmDtype] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "fp32",
    "int8": "int8",
}
"""Which product's peak bounds the arithmetic on weights held so; a CPU casts fp16 to fp32."""
