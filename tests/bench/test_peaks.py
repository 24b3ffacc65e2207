import pytest
import torch

from edgetiny.bench.peaks import PeakReader


def test_the_reading_after_a_row_is_the_one_before_the_next():
    reader = PeakReader(1, "cpu", seconds=0.02)
    first = reader.before("fp32")
    assert reader.before("fp32") is first
    after = reader.read("fp32")
    assert after is not first
    assert reader.before("fp32") is after
    assert after.bandwidth.buffer_bytes >= 4 * (after.bandwidth.llc_bytes or 0)


def test_another_type_is_read_anew():
    reader = PeakReader(1, "cpu", seconds=0.02)
    first, second = reader.before("fp32"), reader.before("bf16")
    assert first.gemm is not None
    assert first.gemm.dtype == "fp32"
    assert second.gemm is None or second.gemm.dtype == "bf16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_has_peaks_too():
    reading = PeakReader(1, "cuda", seconds=0.2).read("fp16")
    assert reading.gemm is not None
    assert reading.bandwidth.bytes_per_s > 0
