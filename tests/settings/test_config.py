"""Settings: what `extends` means, what the shipped files say, and that every mistake is refused in one sentence."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from magic123.records.errors import InputError
from magic123.run.manifest import load_manifest
from magic123.run.method_list import differences
from magic123.run.plan import axes_of, cells, last_error, note_failures
from magic123.run.suite import REPORTS, load_suite
from magic123.settings.settings_file import load_methods, merge, read_yaml, resolve_extends
from magic123.settings.stage import stage_settings

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = """
base:
  label: Base
  stages:
    coarse: {scene: nerf, steps: 10, losses: {rgb: 3}}
    fine: {scene: dmtet, init: coarse}
"""


@pytest.fixture
def methods_file(tmp_path: Path):
    """Writes methods, and loads them."""

    def load(text: str):
        (tmp_path / "methods.yaml").write_text(text)
        return load_methods(tmp_path / "methods.yaml")

    return load


@pytest.fixture
def suite_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loads a suite over the repository's configuration and a dataset of three, with `changes` laid over it."""
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    shipped = read_yaml(REPOSITORY / "config" / "config.yaml")
    run = {"datasets": ["demo"], "examples": "all", "methods": ["both"], "seeds": [0], "tables": ["demo"]}
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(shipped | {"run": run}))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "rgba.png").write_bytes(b"picture")
    names = ("cone", "dog", "house")
    write(tmp_path / "datasets" / "demo.csv", "name,prompt,image", *(f"{name},a {name},rgba.png" for name in names))
    monkeypatch.chdir(tmp_path)

    def load(changes: str = "{}"):
        config = read_yaml("config/config.yaml")
        (tmp_path / "changes.yaml").write_text(changes)
        overlay(config, yaml.safe_load(changes))
        return load_suite(config, ["config/config.yaml", "changes.yaml"])

    return load


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
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


# ------------------------------------------------------------------------------------------------------------- extends
def test_keys_override_one_by_one(methods_file) -> None:
    row = methods_file(METHODS + "row: {extends: base, stages: {coarse: {losses: {mask: 7}}}}")["row"]
    assert row.stages["coarse"].losses.rgb == 3 and row.stages["coarse"].losses.mask == 7
    assert row.stages["coarse"].steps == 10 and set(row.stages) == {"coarse", "fine"}


def test_null_removes(methods_file) -> None:
    methods = methods_file(METHODS + "row: {extends: base, stages: {fine: null, coarse: {losses: {rgb: null}}}}")
    assert set(methods["row"].stages) == {"coarse"}
    assert methods["row"].stages["coarse"].losses.rgb == stage_settings(scene="nerf").losses.rgb  # back to the default
    assert set(methods["base"].stages) == {"coarse", "fine"}  # the base is left as it was


def test_lists_are_replaced_whole() -> None:
    assert merge({"range": [1, 2], "kept": 1}, {"range": [3]}, "file", "at") == {"range": [3], "kept": 1}


def test_extends_reaches_over_several_and_in_any_order(methods_file) -> None:
    methods = methods_file(
        "c: {extends: b, stages: {coarse: {steps: 3}}}\nb: {extends: base, stages: {fine: null}}\n" + METHODS
    )
    assert methods["c"].stages["coarse"].losses.rgb == 3 and set(methods["c"].stages) == {"coarse"}


def test_label_is_not_inherited(methods_file) -> None:
    assert methods_file(METHODS + "row: {extends: base}")["row"].label == "row"


def test_differences_are_those_of_the_resolved_settings(methods_file) -> None:
    methods = methods_file(METHODS + "row: {extends: base, stages: {fine: null, coarse: {steps: 12, losses: {rgb: 3}}}}")
    assert differences(methods["row"], methods["base"]) == [("fine", "set", "absent"), ("coarse.steps", "10", "12")]


# ------------------------------------------------------------------------------------------------- refused in a sentence
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("row: {extends: base, stages: {coarse: {losses: {dept: 0}}}}", ["row.stages.coarse.losses.dept", "'depth'", "mask"]),
        ("row: {extends: base, stages: {coarse: {losses: {dept: null}}}}", ["row.stages.coarse.losses.dept", "nothing to"]),
        ("row: {extends: bse}", ["row.extends", "'bse'", "did you mean 'base'?"]),
        ("row: {extends: row}", ["row.extends", "circle", "row -> row"]),
        ("a: {extends: b}\nb: {extends: a}", ["circle", "a -> b -> a"]),
        ("row: {extends: base, stages: {coarse: {steps: many}}}", ["row.stages.coarse.steps", "'many'", "integer"]),
        ("row: {extends: base, stages: {coarse: {losses: {rgb: -1}}}}", ["row.stages.coarse.losses.rgb", "-1", "equal to 0"]),
        ("row: {extends: base, stages: {fine: {init: corse}}}", ["row.stages.fine.init", "'corse'", "did you mean 'coarse'?"]),
        ("row: {extends: base, stages: {fine: {init: bass/coarse}}}", ["row.stages.fine.init", "'bass'", "mean 'base'?"]),
        ("row: {extends: base, stages: {coarse: {init: fine}}}", ["row.stages.fine.init", "circle", "row/coarse -> row/fine"]),
        ("row: {stages: {fine: {scene: dmtet}}}", ["row.stages.fine.init is missing"]),
        ("row: {stages: {coarse: {scene: picture}}}", ["row.stages.coarse", "steps: 0"]),
        ("row: {stages: {}}", ["row.stages", "at least 1 item"]),
        ("row: {label: x}", ["row.stages is missing"]),
        ("row: 3", ["row must hold keys and values"]),
        ("a row: {extends: base}", ["'a row' is not a usable name"]),
        (f"{'a' * 65}: {{extends: base}}", ["is not a usable name", "at most 64"]),
        ("row.: {extends: base}", ["'row.' is not a usable name", "no dot last"]),
        ("BASE: {extends: base}", ["'BASE' shares a folder with 'base'"]),
        ("Token: {extends: base}", ["the method 'Token' is the name of the folder of the learned token"]),
        ("row: {extends: base, stages: {Coarse: {scene: nerf, steps: 1}}}", ["'coarse' shares a folder with 'Coarse'"]),
        ("base: {extends: base}", ["line 7", "'base' stands twice"]),
        ("row: {extends: base", ["line", "not valid YAML"]),
        ("row: {extends: base, stages: {coarse: {priors: {p: {tange: 1}}}}}", ["row.stages.coarse.priors.p.tange", "t_range"]),
        ("row: {extends: base, stages: {coarse: {cameras: {progressive: {}}}}}", ["coarse.cameras", "upper_hemisphere to 0"]),
    ],
)  # fmt: skip
def test_mistakes_in_methods(methods_file, tmp_path: Path, text: str, parts: list[str]) -> None:
    sentence = refused(methods_file, METHODS + text)
    assert sentence.startswith(str(tmp_path / "methods.yaml"))
    for part in parts:
        assert part in sentence


def test_missing_file(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in refused(read_yaml, tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ("run: {methods: [bth]}", ["changes.yaml", "run.methods", "'bth'", "did you mean 'both'?"]),
        ("run: {examples: [cat]}", ["changes.yaml", "run.examples", "'cat'", "cone, dog, house"]),
        ("run: {examples: [dog, dog]}", ["run.examples", "twice"]),
        ("run: {datasets: [dmo]}", ["run.datasets", "datasets/dmo.csv is not there", "did you mean 'demo'?"]),
        ("run: {datasets: ['$(touch x)']}", ["run.datasets: '$(touch x)' is not a usable name"]),
        ("run: {datasets: [Plans]}", ["run.datasets: 'Plans' is the name of results/plans"]),
        ("run: {datasets: [demo, Demo]}", ["'demo' shares a folder with 'Demo'"]),
        ("ceilings: {datasets: [../demo]}", ["changes.yaml: ceilings.datasets: '../demo' is not a usable name"]),
        ("datasets_folder: 'a{b}'", ["changes.yaml: datasets_folder", "braces"]),
        ("run: {examples: lamp}", ["changes.yaml: run.examples is 'lamp': input should be 'all' or a valid list."]),
        ("run: {examples: [dog, 1]}", ["changes.yaml: run.examples.1 is 1: input should be a valid string."]),
        ("{run: {examples: [1], seeds: [x]}}", ["run.examples.0 is 1: input should be a valid string (1 more"]),
        ("run: {tables: [dem]}", ["run.tables", "did you mean 'demo'?"]),
        ("run: {seeds: [-1]}", ["changes.yaml", "run.seeds.0"]),
        ("run: {seeds: []}", ["run.seeds", "at least 1 item"]),
        ("run: {method: [both]}", ["changes.yaml", "run.method is not a known setting", "did you mean 'methods'?"]),
        ("view: {sets: {ring: {polr: 3}}}", ["changes.yaml", "view.sets.ring.polr", "polar, first_azimuth, count"]),
        ("invert: {weights: miniature-zero123}", ["changes.yaml", "invert.weights", "fits only the model"]),
        ("{invert: {weights: miniature-zero123}, run: {methods: [3d-prior-only]}}", ["zero123, not stable-diffusion"]),
        ("score: {weights: [miniature-clop]}", ["score.weights", "did you mean 'miniature-clip'?"]),
        ("score: {weights: [miniature-dpt]}", ["score.weights", "dpt, not clip or perceptual"]),
        ("prepare: {depth_weights: miniature-clip}", ["prepare.depth_weights", "clip, not dpt"]),
        ("prepare: {settings: {depth: file}}", ["datasets/demo.csv: cone has no depth", "prepare.settings.depth is file"]),
        ("invert: {given: true}", ["datasets/demo.csv: cone has no token", "invert.given"]),
        ("datasets_folder: elsewhere", ["datasets/demo.csv: cone.image is elsewhere/rgba.png, which is not there"]),
        ("run: {seeds: [0]}\nrun: {seeds: [1]}", ["changes.yaml line 2", "the key 'run' stands twice"]),
        ("run: {seeds: [yes]}", ["changes.yaml: run: seeds is [True], which is neither a number nor text", "reads yes, no"]),
        ("view: {size: true}", ["changes.yaml: view: size is True"]),
        ("view: {radius: .nan}", ["changes.yaml: view.radius is nan", "finite"]),
        ("view: {sets: {ring: {first_azimuth: .inf}}}", ["changes.yaml: view.sets.ring.first_azimuth is inf", "finite"]),
        ("view: {sets: {ring: {polar: 181}}}", ["view.sets.ring.polar is 181", "less than or equal to 180"]),
        ("view: {fov: 180}", ["view.fov is 180", "less than 180"]),
        ("view: {sets: {ring: {count: 1000000000}}}", ["view.sets.ring.count is 1000000000", "10000"]),
        ("view: {sets: {Ring: {}}}", ["view.sets", "'ring' and 'Ring' differ in case alone"]),
        ("view: {sets: {-rf: {}}}", ["'-rf' cannot name a view set"]),
        (f"view: {{sets: {{{'a' * 65}: {{}}}}}}", ["cannot name a view set", "64 at most"]),
        ("view: {sets: {é: {}}}", ["'é' cannot name a view set"]),
        ("run: " + "[" * 60 + "]" * 60, ["changes.yaml: its lists or mappings are nested too deeply"]),
        ("run: &r {seeds: [0], x: *r}", ["changes.yaml: its lists or mappings are nested too deeply"]),
        ("run: {methods: &r [*r]}", ["changes.yaml: its lists or mappings are nested too deeply"]),
        (f"run: {{seeds: [{'x' * 10_000}]}}", ["run.seeds.0 is 'xxx", "..."]),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration(suite_of, changes: str, parts: list[str]) -> None:
    sentence = refused(suite_of, changes)
    for part in parts:
        assert part in sentence
    assert len(sentence) < 1000


def test_what_yaml_repeats_by_an_alias_is_looked_at_once(suite_of) -> None:
    """Nine levels of nine aliases are 387 million parts."""
    levels = "".join(f", l{n + 1}: &l{n + 1} [{', '.join([f'*l{n}'] * 9)}]" for n in range(9))
    sentence = refused(suite_of, f"{{l0: &l0 [x]{levels}}}")
    assert "is not a known setting" in sentence


@pytest.mark.parametrize(
    "name", ["reference", "turntable", "novel", "all", "alpha", "normal", "depth", "mask", "shaded", "a/b", "..", ""]
)
def test_names_that_no_view_set_can_have(suite_of, name: str) -> None:
    sentence = refused(suite_of, f"view: {{sets: {{'{name}': {{count: 2}}}}}}")
    assert sentence.startswith(f"changes.yaml: view.sets.{name}: {name!r} ") and "cannot name a view set" in sentence
    assert "[key]" not in sentence


def test_a_removed_view_set_needs_no_usable_name(suite_of) -> None:
    assert "mask" not in suite_of("view: {sets: {mask: null}}").settings.view.sets


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("readme", "reports/README"),
        ("Methods", "reports/methods"),
        ("demo-cells", "files of one name"),
        ("a b", "not a usable"),
    ],
)
def test_names_that_no_table_can_have(suite_of, table: str, said: str) -> None:
    suite_of()
    with open("config/tables.yaml", "a") as file:
        file.write(f"\n{table}: {{title: T, columns: [psnr]}}\n")
    assert said in refused(suite_of)


def test_the_pages_of_the_repository_are_no_tables() -> None:
    kept = re.findall(r"^!reports/(\w+)\.md$", (REPOSITORY / ".gitignore").read_text(), re.MULTILINE)
    assert set(kept) == set(REPORTS) and {file.stem for file in (REPOSITORY / "reports").glob("[A-Z]*.md")} <= set(REPORTS)


def test_unregistered_weights(suite_of) -> None:
    suite_of()
    with open("config/methods.yaml", "a") as file:
        file.write("\nrow: {extends: both, stages: {fine: {priors: {zero123: {weights: miniature-zero321}}}}}\n")
    sentence = refused(suite_of, "run: {methods: [row]}")
    assert sentence.startswith(
        "config/methods.yaml: row.stages.fine.priors.zero123.weights names the weights 'miniature-zero321'"
    )
    assert "not in config/weights.yaml; did you mean 'miniature-zero123'?" in sentence


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("[own, dgo]", "names 'dgo', not an example of demo; did you mean 'dog'?"),
        ("[dog, own]", "starts with own"),
        ("[own, dog, dog]", "once each"),
        ("[]", "starts with own"),
        ("own-and-next", "reference"),
    ],
)
def test_mistakes_in_further_references(suite_of, reference: str, said: str) -> None:
    suite_of()
    with open("config/methods.yaml", "a") as file:
        file.write(
            f"\nrow: {{extends: 3d-prior-only, stages: {{coarse: {{priors: {{zero123: {{reference: {reference}}}}}}}}}}}\n"
        )
    sentence = refused(suite_of, "run: {methods: [row]}")
    assert "row.stages.coarse.priors.zero123.reference" in sentence and said in sentence


def test_dataset_without_examples(suite_of) -> None:
    suite_of()
    write(Path("datasets/other.csv"), "name,prompt,image", "mug,a mug,rgba.png")
    assert "names 'other'" in refused(suite_of, "run: {datasets: [demo, other], examples: [dog]}")


def test_command_line_is_named_where_no_file_says_so(suite_of) -> None:
    suite_of()
    config = read_yaml("config/config.yaml")
    config["run"]["methods"] = ["bth"]
    assert refused(load_suite, config, ["config/config.yaml"]).startswith("the command line: run.methods")


def test_rows_of_tables(suite_of) -> None:
    tables = Path("config/tables.yaml")
    suite = suite_of()
    tables.write_text("demo: {title: T, columns: [psnr], rows: [[both, fine]]}")
    assert "no table of this run has a row for it" in refused(suite_of, "run: {methods: [both, mini]}")
    suite = suite_of("run: {methods: [both]}")
    assert [row["stage"] for row in axes_of(suite, "demo")["rows"]] == ["fine"]
    tables.write_text("demo: {title: T, columns: [psnr], rows: [[both, finer]]}")
    assert "did you mean 'fine'?" in refused(suite_of, "run: {methods: [both]}")


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["name,prompt,imge", "dog,a dog,x.png"], ["line 2", "imge is not a known setting", "did you mean 'image'?"]),
        (["name,prompt,image", "dog,a red, big dog,x.png"], ["line 2", "more cells than the header", "quotes"]),
        (["name,prompt,image", "dog,,x.png"], ["line 2", "prompt is missing"]),
        (["name,prompt,image", "my dog,a dog,x.png"], ["line 2", "'my dog'", "letters, digits"]),
        (["name,prompt,image", "dog,a dog,x.png", "dog,a dog,y.png"], ["line 3", "'dog' is there already"]),
        (["name,prompt,image,polar", "dog,a dog,x.png,steep"], ["line 2", "polar is 'steep'"]),
        (["name,prompt,image"], ["lists no examples"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_manifest(tmp_path: Path, lines: list[str], parts: list[str]) -> None:
    sentence = refused(load_manifest, write(tmp_path / "mine.csv", *lines))
    for part in [str(tmp_path / "mine.csv"), *parts]:
        assert part in sentence


def test_another_picture_is_refused(suite_of) -> None:
    suite_of()
    write(Path("datasets/demo.csv"), "name,prompt,image,sha256", f"dog,a dog,rgba.png,{'0' * 64}")
    assert "get the original" in refused(suite_of, "run: {methods: [both]}")


# ------------------------------------------------------------------------------------------------------- shipped files
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


@pytest.mark.parametrize("name", ["config", "demo-full"])
def test_shipped_configurations_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    config, file = read_yaml("config/config.yaml"), f"config/{name}.yaml"
    overlay(config, read_yaml(file))
    suite = load_suite(config, ["config/config.yaml", file])
    assert suite.settings.run.tables == [{"config": "demo"}.get(name, name)]


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


# ---------------------------------------------------------------------------------------------------------------- plan
def test_plan_is_the_whole_grid(suite_of) -> None:
    suite = suite_of("run: {methods: [both, copy-reference], seeds: [0, 5], examples: [dog, house]}")
    planned = cells(axes_of(suite, "demo"))
    assert len(planned) == 3 * 2 * 2  # rows, examples, seeds
    assert planned[0] == {
        "dataset": "demo", "example": "dog", "method": "both", "label": "both priors", "stage": "coarse", "seed": 0,
        "path": "results/demo/dog/both/seed0/coarse",
    }  # fmt: skip
    assert len({cell["path"] for cell in planned}) == len(planned)


def test_options_at_their_defaults_are_not_recorded() -> None:
    """Records of before they existed are still what the settings say, so that no finished stage runs again."""
    prior = {"kind": "stable-diffusion", "weights": "sd", "weight": 1, "guidance_scale": 2}
    recorded = stage_settings(scene="nerf", priors={"text": prior}).model_dump()
    options = {"cameras": {"progressive", "jitter"}, "field": {"progressive_levels"}}
    for part, names in options.items():
        assert not names & recorded[part].keys()
    assert not {"negative_prompt", "negative_views"} & recorded["priors"]["text"].keys()
    changed = stage_settings(
        scene="nerf",
        priors={"text": prior | {"negative_prompt": "blurred", "negative_views": True}},
        cameras={"jitter": {}},
        field={"progressive_levels": {}},
    )
    assert stage_settings(**changed.model_dump(mode="json")) == changed != stage_settings(**recorded)


def test_failures_are_told_from_what_was_never_reached(suite_of) -> None:
    suite = suite_of("run: {methods: [both, 3d-prior-only], examples: [dog]}")
    axes = axes_of(suite, "demo")
    log = Path("logs/demo/dog/both/seed0/coarse/reconstruct.log")
    log.parent.mkdir(parents=True)
    log.write_text("step 3\nerror: the gradient is not finite\n")
    unfinished = {f"{cell['path']}/scores.json" for cell in cells(axes)}
    notes = {(cell["method"], cell["stage"]): Path(cell["path"]) / "status.json" for cell in note_failures(axes, unfinished)}
    for stage in ("coarse", "fine"):  # fine starts from coarse, so that is why there is no fine
        note = json.loads(notes["both", stage].read_text())
        assert note == {
            "status": "failed",
            "reason": "reconstruct: the gradient is not finite",
            "step": "reconstruct",
            "log": str(log),
        }
    assert not notes["3d-prior-only", "coarse"].exists()
    finished = note_failures(axes, set())
    assert finished == cells(axes)


def test_last_error(tmp_path: Path) -> None:
    log = tmp_path / "view.log"
    for text, found in (
        ("all well\n", None),
        ("", None),
        ("error: once\nthen well\n", None),
        ("warming up\nerror: no mesh\n\n", "view: no mesh"),
        ("Traceback (most recent call last):\n  File x\nValueError: bad\n", "view: ValueError: bad"),
    ):
        log.write_text(text)
        assert last_error(log) == found
    assert last_error(tmp_path / "absent.log") is None


# ------------------------------------------------------------------------------------------------------------- layers
def test_files_of_methods_are_laid_over_each_other_and_extends_works_across(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", METHODS.strip(), "old: {extends: base}")
    second = write(
        tmp_path / "second.yaml",
        "base: {label: Changed, stages: {coarse: {losses: {mask: 7}}}}",
        "small: {extends: base, stages: {coarse: {steps: 2}, fine: null}}",
        "old: null",
    )
    methods = load_methods([first, second])
    assert list(methods) == ["base", "small"] and methods["base"].label == "Changed"
    coarse = methods["small"].stages["coarse"]
    assert (coarse.steps, coarse.losses.rgb, coarse.losses.mask) == (2, 3, 7) and list(methods["small"].stages) == ["coarse"]
    write(tmp_path / "second.yaml", "small: {extends: base, stages: {coarse: {step: 2}}}")
    with pytest.raises(InputError, match=r"second.yaml: small.stages.coarse.step is not a known setting"):
        load_methods([first, second])
    write(tmp_path / "second.yaml", "base: {stages: {fine: {init: nothing}}}")
    with pytest.raises(InputError, match=r"second.yaml: base.stages.fine.init names 'nothing'"):
        load_methods([first, second])


def test_registries_take_lists(suite_of, tmp_path: Path) -> None:
    write(tmp_path / "more.yaml", "both: {label: Mine, stages: {coarse: {steps: 3}}}")
    write(tmp_path / "weights.yaml", "miniature-dpt: {licence: mine}")
    suite = suite_of("registries: {methods: [config/methods.yaml, more.yaml], weights: [config/weights.yaml, weights.yaml]}")
    assert suite.methods["both"].label == "Mine" and suite.methods["both"].stages["coarse"].steps == 3
    assert suite.weights["miniature-dpt"].licence == "mine" and suite.weights["miniature-dpt"].path == "weights/miniature/dpt"


def test_one_dtype_for_all_stages(suite_of) -> None:
    suite = suite_of("{run: {methods: [both]}, compute: {dtype: float32}, invert: {settings: {dtype: float16}}}")
    stages = [stage for name in ("magic123", "magic123-12gb", "both") for stage in suite.methods[name].stages.values()]
    assert {stage.dtype for stage in stages} == {"float32"}
    assert {prior.dtype for stage in stages for prior in stage.priors.values()} == {"float32"}
    assert "float16" not in "".join(stage.model_dump_json() for stage in stages)
    assert suite.settings.invert.settings.dtype == "float32"
    before = suite_of("{run: {methods: [both]}}").methods["magic123"].stages["coarse"]
    assert before.model_dump_json() != stages[0].model_dump_json()  # the setting is what Snakemake compares, and is recorded
    assert [type(rung) for rung in stages[0].rungs()] == [type(rung) for rung in before.rungs()]
