"""Energy by counters that begin again at 0, or by processor time at a stated power."""

from pathlib import Path

import pytest

from mil.accounting import energy
from mil.accounting.energy import WATTS_PER_CORE, Counter, Meter, gpu_watts, read_rapl


def zone(root: Path, name: str, microjoules: int) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "energy_uj").write_text(f"{microjoules}\n")
    (root / name / "max_energy_range_uj").write_text("1000000\n")


def test_a_counter_that_began_again_is_read_right() -> None:
    assert Counter(400_000, 1_000_000).until(Counter(900_000, 1_000_000)) == 0.5
    assert Counter(900_000, 1_000_000).until(Counter(100_000, 1_000_000)) == pytest.approx(0.2)


def test_packages_are_counted_and_their_parts_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(tmp_path, name, 100_000)
    (tmp_path / "intel-rapl:2").mkdir()  # one that may not be read
    assert set(read_rapl(tmp_path)) == {"intel-rapl:0", "intel-rapl:1"}
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    monkeypatch.setattr(energy, "read_rapl", lambda: read_rapl(tmp_path))
    with Meter() as meter:
        zone(tmp_path, "intel-rapl:0", 600_000)
        zone(tmp_path, "intel-rapl:1", 50_000)
        found = meter.read()[2]
    assert found.joules == pytest.approx(0.5 + 0.95)
    assert "RAPL" in found.how


def test_without_counters_processor_time_is_taken_at_a_stated_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "read_rapl", lambda: dict[str, Counter]())
    with Meter() as meter:
        assert sum(number * number for number in range(300_000))
        seconds, cpu, found = meter.read()
    assert cpu > 0
    assert seconds > 0
    assert found.joules == pytest.approx(WATTS_PER_CORE * cpu)
    assert f"{WATTS_PER_CORE:g} W" in found.how


def test_a_gpu_whose_power_nobody_tells_leaves_the_energy_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_watts("cuda", 1) is None
    assert gpu_watts("cpu", 1) == []
    with Meter("cuda") as meter:
        assert meter.read()[2].joules is None
