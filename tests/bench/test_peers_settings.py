"""Rows: ours from a recipe, the peers' by name; what decides a measurement decides its identity."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from peers.conversion import Converted
from peers.environments import REQUIREMENTS, processor_options
from peers.settings import ours_setting, peer_settings

ENGINES = Path(__file__).parents[2] / "bench/peers/engines"


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_says_its_own_bits_and_batches(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[export]\nprecision = "int4"\nbatch = [20]\n')
    row = ours_setting(f"fast={path}")
    assert (row.bits, row.batches, row.is_ours) == (4, (20,), True)
    path.write_text('[export]\nprecision = "int8"\n\n[bench]\nbatch = [1]\n', encoding="utf-8")
    assert (ours_setting(f"fast={path}").bits, ours_setting(f"fast={path}").batches) == (8, (1,))


def test_a_changed_recipe_is_another_row(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[export]\nprecision = "int8"\n')
    before = ours_setting(f"x={path}")
    path.write_text('[export]\nprecision = "int8"\nblock_size = 128\n', encoding="utf-8")
    after = ours_setting(f"x={path}")
    assert before.name != after.name
    assert before.conversion != after.conversion


@pytest.mark.parametrize("given", ["recipe.toml", "=recipe.toml", "name="])
def test_what_is_no_name_and_recipe_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=RECIPE"):
        ours_setting(given)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[export]\nprecision = "int3"\n')
    with pytest.raises(ValueError, match="int3"):
        ours_setting(f"x={path}")


def test_every_peer_has_an_adapter_pins_and_a_name_of_its_own() -> None:
    settings = peer_settings(Path("source"), Path("build"))
    assert len({each.name for each in settings}) == len(settings)
    for each in settings:
        assert (ENGINES / f"{each.engine}.py").is_file(), each.engine
        assert (REQUIREMENTS / f"{each.environment}.txt").is_file(), each.environment
        assert each.files


def test_rows_that_share_files_were_converted_alike() -> None:
    made = {}
    for each in peer_settings(Path("source"), Path("build")):
        facts = (each.engine, each.environment, dict(each.convert), each.padded, each.files)
        assert made.setdefault(each.conversion, facts) == facts


def test_how_a_row_is_run_is_part_of_its_identity() -> None:
    row = peer_settings(Path("source"), Path("build"))[0]
    assert replace(row, run={"loop": "another"}).identity != row.identity


def test_torch_is_the_same_everywhere() -> None:
    for pins in REQUIREMENTS.glob("*.txt"):
        assert "torch==2.13.0" in pins.read_text(encoding="utf-8").splitlines(), pins.name


def test_llama_cpp_is_built_for_the_processor_without_amx() -> None:
    assert processor_options("flags\t\t: fpu avx2 fma\n") == ["-DGGML_NATIVE=ON"]
    options = processor_options("model name\t: X\nflags\t\t: avx2 avx512f amx_tile amx_int8\n")
    assert options == ["-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_AVX512=ON"]


def test_other_pins_are_another_measurement_and_ask_for_another_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "pins"
    pins.mkdir()
    monkeypatch.setattr("peers.conversion.REQUIREMENTS", pins)
    converted = Converted(tmp_path, threads=1, limit_s=9.0)
    row = peer_settings(tmp_path, tmp_path)[0]
    (pins / f"{row.environment}.txt").write_text("engine==1\n", encoding="utf-8")
    before = converted.identity(row)
    folder = converted.folder("A", row)
    folder.mkdir(parents=True)
    done = {"identity": converted._made_by(row), "seconds": 1.0}
    (folder / "prepared.json").write_text(json.dumps(done), encoding="utf-8")
    assert converted.failure("A", row) is None
    (pins / f"{row.environment}.txt").write_text("engine==2\n", encoding="utf-8")
    assert converted.identity(row) != before
    assert converted.failure("A", row) == "not converted"
