"""Methods and suites loaded from written files."""

from pathlib import Path

import pytest

from magic123.settings.method import load_methods


@pytest.fixture
def methods_file(tmp_path: Path):
    """Writes methods, and loads them."""

    def load(text: str):
        (tmp_path / "methods.yaml").write_text(text)
        return load_methods(tmp_path / "methods.yaml")

    return load
