"""How near a measured step comes to the limit of the machine it ran on."""

from dataclasses import dataclass
from typing import Any, Literal

from edgetiny.cost import Precision, StepCost, roofline
from edgetiny.measure import Bandwidth, GemmDtype, GemmPeak

# Two readings of one machine agree this well, or something else was running.
PEAK_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine reached at one moment; no product where torch has none of the type."""

    bandwidth: Bandwidth
    gemm: GemmPeak | None


@dataclass(frozen=True, slots=True)
class Peaks:
    """What the machine reached before and after a row. A neighbour can only make one smaller."""

    before: Reading
    after: Reading

    @property
    def bytes_per_s(self) -> float:
        """The larger of the two bandwidths."""
        return max(self.before.bandwidth.bytes_per_s, self.after.bandwidth.bytes_per_s)

    @property
    def flops_per_s(self) -> float | None:
        """The larger of the two rates of a matrix product."""
        rates = [each.gemm.flops_per_s for each in (self.before, self.after) if each.gemm]
        return max(rates, default=None)

    def doubts(self) -> list[str]:
        """Say which readings differ by more than two of one machine do."""
        pairs = {"bandwidth": [each.bandwidth.bytes_per_s for each in (self.before, self.after)]}
        if self.before.gemm and self.after.gemm:
            pairs["matrix products"] = [
                self.before.gemm.flops_per_s,
                self.after.gemm.flops_per_s,
            ]
        return [
            f"{name} before and after differ by {1 - min(pair) / max(pair):.0%}:"
            " other work was running"
            for name, pair in pairs.items()
            if 1 - min(pair) / max(pair) > PEAK_TOLERANCE
        ]


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
        before, after = self.peaks.before, self.peaks.after
        return {
            "context": self.step.context,
            "bytes_per_step": round(self.step.total_bytes),
            "weight_bytes_per_step": round(self.step.weight_bytes),
            "kv_bytes_per_step": round(self.step.kv_bytes),
            "flops_per_step": round(self.step.flops),
            "read_bytes_per_s": self.peaks.bytes_per_s,
            "read_bytes_per_s_before": before.bandwidth.bytes_per_s,
            "read_bytes_per_s_after": after.bandwidth.bytes_per_s,
            "gemm_flops_per_s": self.peaks.flops_per_s,
            "gemm_flops_per_s_before": before.gemm and before.gemm.flops_per_s,
            "gemm_flops_per_s_after": after.gemm and after.gemm.flops_per_s,
            "gemm_dtype": before.gemm and before.gemm.dtype,
            "buffer_bytes": before.bandwidth.buffer_bytes,
            "llc_bytes": before.bandwidth.llc_bytes,
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
        flops_per_s=peaks.flops_per_s or float("inf"),
    )
    mbu = step.total_bytes / step_s / peaks.bytes_per_s
    llc_bytes = peaks.before.bandwidth.llc_bytes
    is_in_cache = llc_bytes is not None and step.total_bytes < llc_bytes
    doubts = peaks.doubts()
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


def gemm_dtype(precision: Precision, device: str) -> GemmDtype:
    """Return which product bounds the arithmetic of this type; a CPU casts fp16 to fp32.

    int4 is multiplied as int8.
    """
    if precision == "int4":
        return "int8"
    return "fp32" if precision == "fp16" and device == "cpu" else precision
