"""JSON schemas of the settings files: up to date, named in every file, and they accept what we ship."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from magic123.run.schemas import FOLDER, schemas

CONFIG = Path(__file__).resolve().parents[2] / "config"
FILES = sorted(CONFIG.glob("*.yaml"))


def schema_name(file: Path) -> str:
    """The schema of a file in config/: its own (rehearsal-methods: that of methods), or that of a run."""
    kind = file.stem.rpartition("-")[2]
    return kind if kind in schemas() else "config"


def test_committed_schemas_are_up_to_date():
    made = schemas()
    assert {file.stem for file in (CONFIG / "schemas").glob("*.json")} == made.keys()
    for name, schema in made.items():
        assert json.loads((CONFIG.parent / FOLDER / f"{name}.json").read_text()) == schema, "run `magic123 schema`"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_settings_file_names_its_schema_and_fits_it(file):
    name = schema_name(file)
    assert file.read_text().splitlines()[0] == f"# yaml-language-server: $schema=schemas/{name}.json"
    jsonschema.Draft202012Validator(schemas()[name]).validate(yaml.safe_load(file.read_text()))


def test_a_partial_entry_fits_and_a_typo_does_not():
    validator = jsonschema.Draft202012Validator(schemas()["methods"])
    entry = {"extends": "magic123", "stages": {"coarse": {"losses": {"depth": 0}, "dmtet": None}}}
    validator.validate({"row": entry})
    entry["stages"]["coarse"]["losses"] = {"dept": 0}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"row": entry})
