from edgetiny.measure import EnergyMeter, cuda_frequency_hz, cuda_temperature_celsius

SPAN = 262_143_328_850  # of a Xeon: over four minutes of a thousand watts


def package(root, number, used, *, span=SPAN, name="package-0"):
    domain = root / f"intel-rapl:{number}"
    domain.mkdir(exist_ok=True)
    (domain / "name").write_text(f"{name}\n")
    (domain / "max_energy_range_uj").write_text(f"{span}\n")
    (domain / "energy_uj").write_text(f"{used}\n")


def test_packages_are_added_up_and_counters_begin_again(tmp_path):
    package(tmp_path, 0, 100)
    package(tmp_path, 1, SPAN - 10, name="package-1")
    package(tmp_path, 2, 5, name="psys")  # holds the packages, so it would count twice
    meter = EnergyMeter(tmp_path)
    meter.start()
    package(tmp_path, 0, 600)
    package(tmp_path, 1, 10, name="package-1")
    package(tmp_path, 2, 900, name="psys")
    assert meter.joules() == (500 + 21) / 1e6


def test_a_counter_that_may_have_begun_again_twice_says_nothing(tmp_path):
    package(tmp_path, 0, 100, span=1000)  # a microsecond of a thousand watts
    meter = EnergyMeter(tmp_path)
    meter.start()
    package(tmp_path, 0, 600, span=1000)
    assert meter.joules() is None


def test_what_cannot_be_read_is_none_and_never_zero(tmp_path):
    meter = EnergyMeter(tmp_path)
    meter.start()
    assert meter.joules() is None
    package(tmp_path, 0, 100)
    still = EnergyMeter(tmp_path)
    assert still.joules() is None, "not started"
    still.start()
    assert still.joules() is None, "a counter that stands still counts nothing"
    (tmp_path / "intel-rapl:0/energy_uj").unlink()
    assert still.joules() is None


def test_a_gpu_that_is_not_there_has_no_state(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda_temperature_celsius() is None
    assert cuda_frequency_hz() is None
