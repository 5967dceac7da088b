"""Options that commands share: typed values, or one sentence."""

import json
import os
import subprocess
import sys

import pytest
from repository_paths import REPOSITORY

from magic123.commands.options import (
    add_loop,
    add_settings,
    command_parser,
    named_folder,
    read_json_object,
    read_stage,
    registered_weights,
)
from magic123.records.errors import InputError
from magic123.settings.priors import Speed
from magic123.settings.view import ViewSettings


def test_settings_are_parsed_once_with_their_defaults():
    parser = command_parser("view", "Pictures.")
    add_settings(parser, ViewSettings)
    add_loop(parser)
    options = parser.parse_args(["--settings", '{"size": 64}'])
    assert options.settings == ViewSettings(size=64) and options.speed == Speed() and options.save_seconds == 60
    assert parser.parse_args([]).settings == ViewSettings()
    with pytest.raises(InputError, match="--settings: sise is not a known setting; did you mean 'size'"):
        parser.parse_args(["--settings", '{"sise": 64}'])


def test_a_json_object_is_text_or_a_file(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[1]")
    assert read_json_object("--x", ' {"a": 1}') == read_json_object("--x", str(tmp_path / "a.json")) == {"a": 1}
    for text, problem in {
        "{": "^--x is not readable as JSON",
        "absent.json": "^--x absent.json is not readable as JSON .*No such file",
        str(tmp_path / "list.json"): "must hold a JSON object, not a list",
    }.items():
        with pytest.raises(InputError, match=problem):
            read_json_object("--x", text)


def test_a_stage_may_be_the_record_of_a_result(tmp_path):
    (tmp_path / "stage.json").write_text(json.dumps({"settings": {"scene": "nerf", "steps": 3}, "record": {}}))
    assert read_stage(str(tmp_path / "stage.json")) == read_stage('{"scene": "nerf", "steps": 3}')


def test_weights_are_named_and_registered(monkeypatch):
    assert named_folder("a=b=c") == ("a", "b=c")
    with pytest.raises(InputError, match="must be NAME=FOLDER"):
        named_folder("a")
    monkeypatch.chdir(REPOSITORY)
    registry = "config/weights.yaml"
    assert "lpips-alex" in registered_weights(registry, "lpips-alex", "fetched")
    with pytest.raises(InputError, match="has no weights 'lpips-alx'; did you mean 'lpips-alex'"):
        registered_weights(registry, "lpips-alx", "fetched")
    with pytest.raises(InputError, match="are fetched, not converted: nothing to do"):
        registered_weights(registry, "lpips-alex", "converted")


def test_the_shared_options_need_the_standard_library_alone():
    """`magic123 lease` starts every job on a GPU: it must not wait for libraries that it does not use."""
    command = [sys.executable, "-S", "-c", "import magic123.commands.options, magic123.commands.lease"]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False).returncode == 0
