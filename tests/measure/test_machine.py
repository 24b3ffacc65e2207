import os

from edgetiny.measure import cores, cpu_frequency_hz, llc_bytes, temperature_celsius


def test_cores_lie_between_one_and_the_cpus() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_fewer_allowed_cpus_are_fewer_cores() -> None:
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_what_cannot_be_read_is_none_and_never_zero() -> None:
    for reading in (llc_bytes(), temperature_celsius(), cpu_frequency_hz()):
        assert reading is None or reading > 0
