"""What the processor's packages used up, where the kernel lets us read it (RAPL)."""

import time
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")
_MOST_WATTS = 1000.0  # of one package


class EnergyMeter:
    """Counts joules of all processor packages: of the whole machine's work, not of a process.

    Source: Linux, Documentation/power/powercap; AMD's counters stand under the same names. Most
    systems let only the superuser read them.
    """

    def __init__(self, root: Path = _POWERCAP) -> None:
        self._domains = [
            (domain / "energy_uj", span)
            for domain in sorted(root.glob("intel-rapl:*"))
            if (_text(domain / "name") or "").startswith("package")
            and (span := _number(domain / "max_energy_range_uj")) is not None
        ]
        self._before: list[int] | None = None
        self._started_s = 0.0

    def start(self) -> None:
        """Count from now."""
        self._before = self._read()
        self._started_s = time.monotonic()

    def joules(self) -> float | None:
        """Return the joules since `start`; None where they cannot be read, never zero.

        None too after so long that a counter may have begun again more than once.
        """
        before, now = self._before, self._read()
        if before is None or now is None:
            return None
        most_uj = 1e6 * _MOST_WATTS * (time.monotonic() - self._started_s)
        if any(span < most_uj for _, span in self._domains):
            return None
        used = sum(
            (after - first) % (span + 1)  # the counter begins again at zero after `span`
            for first, after, (_, span) in zip(before, now, self._domains, strict=True)
        )
        return used / 1e6 or None

    def _read(self) -> list[int] | None:
        values = [value for path, _ in self._domains if (value := _number(path)) is not None]
        return values if values and len(values) == len(self._domains) else None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
