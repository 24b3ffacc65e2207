import subprocess
import sys

import pytest
import torch

from edgetiny.errors import DeviceError
from edgetiny.measure import GEMM_DTYPES, gemm_peak, read_bandwidth


def test_bandwidth_is_measured_beyond_the_cache() -> None:
    threads_before = torch.get_num_threads()
    result = read_bandwidth(threads=1, seconds=0.05)
    assert 0 < result.median_bytes_per_s <= result.bytes_per_s
    assert result.buffer_bytes >= 4 * (result.llc_bytes or 0)
    assert result.passes >= 4, "every kernel has had a turn"
    assert torch.get_num_threads() == threads_before


@pytest.mark.parametrize("dtype", GEMM_DTYPES)
def test_gemm_peak_names_its_size_and_dtype(dtype: str) -> None:
    result = gemm_peak(dtype, threads=1, seconds=0.02)  # type: ignore[arg-type]
    if result is None:
        pytest.skip(f"torch multiplies no {dtype} matrices on this processor")
    assert 0 < result.median_flops_per_s <= result.flops_per_s
    assert (result.dtype, result.threads) == (dtype, 1)


def test_no_threads_is_an_error() -> None:
    with pytest.raises(DeviceError, match="at least 1"):
        read_bandwidth(threads=0, seconds=0.01)


def test_importing_loads_no_torch() -> None:
    code = "import sys, edgetiny.measure; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
