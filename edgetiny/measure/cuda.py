"""State of a CUDA device: memory, heat and clock. What cannot be read is None, never zero."""

import subprocess

_QUERY = ("nvidia-smi", "--format=csv,noheader,nounits")


def cuda_name() -> str | None:
    """Return the name of the first CUDA device; None if torch finds none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def cuda_free_bytes() -> int:
    """Return the device memory that no process uses."""
    import torch

    return torch.cuda.mem_get_info(0)[0]


def cuda_temperature_celsius() -> float | None:
    """Return what the driver reports of the first device."""
    return _query("temperature.gpu")


def cuda_frequency_hz() -> float | None:
    """Return the present clock of the first device's processors."""
    mhz = _query("clocks.sm")
    return None if mhz is None else mhz * 1e6


def _query(field: str) -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    # By its UUID: torch's first device is another one where CUDA_VISIBLE_DEVICES says so.
    uuid = torch.cuda.get_device_properties(0).uuid
    command = [*_QUERY, f"--id=GPU-{uuid}", f"--query-gpu={field}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return float(done.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):  # no driver here, or "[N/A]"
        return None
