"""What the shipped files say."""

import re
from pathlib import Path

import pytest
from repository_paths import REPOSITORY
from written_settings import overlay, write

from magic123.run.load import load_suite
from magic123.run.manifest import load_manifest
from magic123.run.method_list import differences
from magic123.settings.method import load_methods
from magic123.settings.settings_file import resolve_extends
from magic123.settings.yaml_file import read_yaml


def test_published_method_has_the_published_numbers() -> None:
    coarse, fine = (load_methods(REPOSITORY / "config/methods.yaml")["magic123"].stages[name] for name in ("coarse", "fine"))
    assert (coarse.steps, coarse.resolution * coarse.reference_scale, fine.resolution) == (5000, 192, 1024)
    assert [coarse.priors[name].weight / coarse.loss_scale for name in coarse.priors] == [1 / 65536, 40 / 65536]
    assert [fine.priors[name].weight for name in fine.priors] == [1e-3, 1e-2]
    assert coarse.priors["stable_diffusion"].t_range == (0.2, 0.6) and fine.priors["zero123"].t_range == (0.02, 0.5)
    losses = coarse.losses
    assert (losses.rgb, losses.mask, losses.depth, losses.normal_smoothness, losses.normal_blur) == (5, 0.5, 0.01, 0.5, 0.5)
    assert (losses.entropy, losses.orientation) == (1e-3, 1e-2)
    on = {name: weight for name, weight in fine.losses.model_dump().items() if weight}
    assert on == {"rgb": 5, "mask": 0.5, "normal_consistency": 0.1, "laplacian": 0.1}
    assert fine.erode_edges and fine.field.coarse_to_fine == 0 and fine.dmtet.grid_resolution == 256


def test_ablations_change_what_they_name_and_no_more() -> None:
    file = REPOSITORY / "config/methods.yaml"
    methods, raw = load_methods(file), read_yaml(file)
    for name, entry in raw.items():
        if name.startswith("magic123-"):
            changed = differences(methods[name], methods[entry["extends"]])
            assert 1 <= len(changed) <= 4, name
    only_2d = differences(methods["magic123-2d-only"], methods["magic123"])
    assert [path for path, _, _ in only_2d] == ["coarse.priors.zero123", "fine.priors.zero123"]


@pytest.mark.parametrize(
    ("name", "tables"), [("config", ["demo"]), ("demo-full", ["demo-full", "priors-coarse", "priors-fine", "stages"])]
)
def test_shipped_configurations_load(name: str, tables: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    config, file = read_yaml("config/config.yaml"), f"config/{name}.yaml"
    overlay(config, read_yaml(file))
    suite = load_suite(config, ["config/config.yaml", file])
    assert suite.settings.run.tables == tables


def test_configuration_of_own_pictures_loads(suite_of) -> None:
    suite_of()
    write(Path("datasets/mine.csv"), "name,prompt,image", "mug,a blue mug,rgba.png")
    suite = suite_of(Path("config/mine.yaml").read_text())
    assert suite.examples == {"mine": ["mug"]} and suite.settings.prepare.settings.mask == "grabcut"


def test_shipped_manifests_are_well_formed() -> None:
    assert len(load_manifest(REPOSITORY / "datasets/nerf4.csv")) == 4
    realfusion = load_manifest(REPOSITORY / "datasets/realfusion15.csv")
    assert len(realfusion) == 15 and all(re.fullmatch(r"[0-9a-f]{64}", row.sha256) for row in realfusion.values())


def test_registries_extend_too() -> None:
    tables = resolve_extends(read_yaml(REPOSITORY / "config/tables.yaml"), "tables.yaml")
    assert tables["demo-full"]["columns"] == tables["demo"]["columns"]
