"""What every test may ask for: the shared data, and one tiny random checkpoint."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real text and tokenizers; skip the test where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EDGETINY_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set EDGETINY_SHARED_DATA to run this test")
    return folder
