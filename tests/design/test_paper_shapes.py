import importlib.util
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "bench/paper_shapes.py"


def test_the_page_is_what_the_program_writes():
    spec = importlib.util.spec_from_file_location("paper_shapes", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    page = program.page()
    assert program.PAGE.read_text(encoding="utf-8") == page
    assert page.count("the same |") == 11, "all of Tables 1 and 2 follow from the solver"
