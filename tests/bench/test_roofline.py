from dataclasses import replace

import pytest

from edgetiny.bench.roofline import Peaks, Reading, bound_of, gemm_dtype
from edgetiny.cost import StepCost
from edgetiny.measure import Bandwidth, GemmPeak

BANDWIDTH = Bandwidth(
    bytes_per_s=50e9,
    median_bytes_per_s=48e9,
    kernel="sum float32",
    passes=4,
    buffer_bytes=2**28,
    llc_bytes=32 * 2**20,
    threads=2,
)
GEMM = GemmPeak(200e9, 190e9, "fp32", 1024, 3, 2)
READING = Reading(BANDWIDTH, GEMM)
PEAKS = Peaks(READING, READING)
STEP = StepCost(batch=2, context=10.0, weight_bytes=400e6, kv_bytes=100e6, flops=0.2e9)


def test_a_step_at_the_bandwidth_has_a_share_of_one():
    bound = bound_of(STEP, 500e6 / 50e9, PEAKS)
    assert bound.mbu == pytest.approx(1.0)
    assert bound.predicted_step_s == pytest.approx(0.01)
    assert bound.limited_by == "memory"
    assert bound.doubts == ()


def test_half_the_speed_is_half_the_share():
    assert bound_of(STEP, 0.02, PEAKS).mbu == pytest.approx(0.5)


def test_faster_than_memory_is_doubted():
    [doubt] = bound_of(STEP, 0.005, PEAKS).doubts
    assert doubt.startswith("2.00 of the bandwidth")


def test_what_the_cache_holds_is_labelled_and_not_doubted():
    small = replace(STEP, weight_bytes=1e6, kv_bytes=0.0)
    bound = bound_of(small, 1e-6, PEAKS)
    assert bound.mbu > 1
    assert bound.is_in_cache
    assert bound.doubts == ()
    assert not bound_of(STEP, 0.02, PEAKS).is_in_cache


def test_an_unknown_cache_is_not_assumed():
    unknown = replace(BANDWIDTH, llc_bytes=None)
    small = replace(STEP, weight_bytes=1e6, kv_bytes=0.0)
    bound = bound_of(small, 1e-6, Peaks(Reading(unknown, GEMM), Reading(unknown, GEMM)))
    assert not bound.is_in_cache
    assert bound.doubts


@pytest.mark.parametrize(("after", "n_doubts"), [(44e9, 0), (42e9, 1), (60e9, 1)])
def test_peaks_that_differ_by_more_than_15_percent_are_doubted(after, n_doubts):
    peaks = Peaks(READING, Reading(replace(BANDWIDTH, bytes_per_s=after), GEMM))
    bound = bound_of(STEP, 0.1, peaks)
    assert len(bound.doubts) == n_doubts
    assert bound.as_json()["read_bytes_per_s"] == max(50e9, after)


def test_arithmetic_can_be_the_limit_and_may_be_unknown():
    busy = replace(STEP, flops=20e9)
    assert bound_of(busy, 1.0, PEAKS).limited_by == "compute"
    assert bound_of(busy, 1.0, PEAKS).predicted_step_s == pytest.approx(0.1)
    unknown = bound_of(busy, 1.0, Peaks(Reading(BANDWIDTH, None), Reading(BANDWIDTH, None)))
    assert unknown.limited_by == "memory"
    assert unknown.as_json()["gemm_flops_per_s"] is None


@pytest.mark.parametrize(("after", "n_doubts"), [(180e9, 0), (160e9, 1), (260e9, 1)])
def test_products_are_held_to_the_same(after, n_doubts):
    peaks = Peaks(READING, Reading(BANDWIDTH, replace(GEMM, flops_per_s=after)))
    assert len(bound_of(STEP, 0.1, peaks).doubts) == n_doubts
    assert peaks.flops_per_s == max(200e9, after)


def test_a_cpu_multiplies_fp16_as_fp32():
    assert gemm_dtype("fp16", "cpu") == "fp32"
    assert gemm_dtype("fp16", "cuda") == "fp16"
    assert gemm_dtype("int8", "cpu") == "int8"
