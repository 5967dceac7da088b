"""Settings written into files: a suite over them, and the sentence of what is refused."""

import shutil
from pathlib import Path

import pytest
import yaml
from repository_paths import REPOSITORY

from magic123.records.errors import InputError
from magic123.run.load import load_suite
from magic123.settings.yaml_file import read_yaml

METHODS = """
base:
  label: Base
  stages:
    coarse: {scene: nerf, steps: 10, losses: {rgb: 3}}
    fine: {scene: dmtet, init: coarse}
"""


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def overlay(below: dict, above: dict) -> None:
    """As Snakemake merges configuration files: mappings key by key, all else whole."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            overlay(below[key], value)
        else:
            below[key] = value


def refused(function, *arguments) -> str:
    """The sentence with which the call is refused."""
    with pytest.raises(InputError) as problem:
        function(*arguments)
    sentence = str(problem.value)
    assert "\n" not in sentence and sentence.endswith(".") and "; (" not in sentence
    return sentence


def suite_loader(folder: Path):
    """Return what loads a suite over the repository's configuration and a dataset of three, in `folder`: the current one."""
    shutil.copytree(REPOSITORY / "config", folder / "config")
    shipped = read_yaml(REPOSITORY / "config" / "config.yaml")
    run = {"datasets": ["demo"], "examples": "all", "methods": ["both"], "seeds": [0], "tables": ["demo"]}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(shipped | {"run": run}))
    (folder / "datasets").mkdir()
    (folder / "datasets" / "rgba.png").write_bytes(b"picture")
    names = ("cone", "dog", "house")
    write(folder / "datasets" / "demo.csv", "name,prompt,image", *(f"{name},a {name},rgba.png" for name in names))

    def load(changes: str = "{}"):
        config = read_yaml("config/config.yaml")
        (folder / "changes.yaml").write_text(changes)
        overlay(config, yaml.safe_load(changes))
        return load_suite(config, ["config/config.yaml", "changes.yaml"])

    return load
