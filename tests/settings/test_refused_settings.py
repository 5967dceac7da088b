"""Every mistake in the settings is refused in one sentence."""

import re
from pathlib import Path

import pytest
from repository_paths import REPOSITORY
from written_settings import METHODS, refused, write

from magic123.run.load import load_suite
from magic123.run.manifest import load_manifest
from magic123.run.plan import axes_of
from magic123.run.suite import REPORTS
from magic123.settings.yaml_file import read_yaml


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
        ("base: {extends: base}", ["line 7", "'base' appears twice"]),
        ("no: {extends: base}", ["line 7: YAML reads the key no as true or false; put it in quotes"]),
        ("__use_yte__: true\n?if True: {row: {extends: base}}", ["has __use_yte__"]),
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


RUNG = "row: {extends: base, stages: {%s: {ladder: [{resolution: 64}, {field: {hidden: 32}}]}}}"


@pytest.mark.parametrize(
    ("text", "stages", "problem"),
    [
        (
            "row: {extends: base, stages: {fine: {field: {hidden: 32, normal_epsilon: 0.1, grid: {levels: 8}}}}}",
            "row.stages.fine cannot start from row/coarse",
            "field.grid.levels is 8 here and 16 there, field.hidden is 32 here and 64 there; give both stages the same",
        ),
        (
            "row: {stages: {fine: {scene: dmtet, init: base/coarse, field: {bound: 0.5}}}}",
            "row.stages.fine cannot start from base/coarse",
            "field.bound is 0.5 here and 1.0 there; give both stages the same",
        ),
        (
            RUNG % "fine",
            "row.stages.fine (rung 2 of its ladder) cannot start from row/coarse",
            "field.hidden is 32 here and 64 there; give both stages the same",
        ),
        (
            RUNG % "coarse",
            "row.stages.fine cannot start from row/coarse (rung 2 of its ladder)",
            "field.hidden is 64 here and 32 there; give both stages the same",
        ),
        (
            "row: {extends: base, stages: {coarse: {background: {hidden: 8}}, fine: {background: {share: 1}}}}",
            "row.stages.fine cannot start from row/coarse",
            "background.hidden is 32 here and 8 there; give both stages the same",
        ),
        (
            "row: {extends: base, stages: {fine: {background: {}}}}",
            "row.stages.fine cannot start from row/coarse",
            "background is given here and absent there; give both stages the same",
        ),
        (
            "row: {stages: {more: {scene: nerf, init: base/coarse, nerf: {occupancy_resolution: 64}}}}",
            "row.stages.more cannot start from base/coarse",
            "nerf.occupancy_resolution is 64 here and 128 there; give both stages the same",
        ),
        (
            "row: {stages: {more: {scene: nerf, init: base/coarse, field: {grid: {nodes: tiled, finest_resolution: 1024}}}}}",
            "row.stages.more cannot start from base/coarse",
            "field.grid.finest_resolution is 1024 here and 2048 there, field.grid.nodes is tiled here and the default there; "
            "give both stages the same",
        ),
        (
            "row: {stages: {more: {scene: dmtet, init: base/fine, field: {bound: 0.5}}}}",
            "row.stages.more cannot start from base/fine",
            "field.bound is 0.5 here and 1.0 there; give both stages the same",
        ),
        (
            "row: {stages: {more: {scene: nerf, init: base/fine}}}",
            "row.stages.more cannot start from base/fine",
            "its scene is dmtet; name a nerf stage",
        ),
    ],
)
def test_stages_that_cannot_start_from_another(methods_file, tmp_path: Path, text: str, stages: str, problem: str) -> None:
    assert refused(methods_file, METHODS + text) == f"{tmp_path / 'methods.yaml'}: {stages}: {problem}."


@pytest.mark.parametrize(
    "text",
    [
        "row: {extends: base, stages: {fine: {field: {coarse_to_fine: 0, progressive_levels: {}, grid: {backend: torch}}}}}",
        "row: {extends: base, stages: {coarse: {background: {}}}}",
        "row: {stages: {more: {scene: nerf, init: base/coarse, field: {blob_density: 5}}}}",
        "row: {stages: {more: {scene: points, init: base/coarse}, most: {scene: points, init: more}}}",
        "row: {stages: {more: {scene: dmtet, init: base/fine, field: {blob_density: 5, grid: {backend: torch}}}}}",
    ],
)
def test_stages_that_can_start_from_another(methods_file, text: str) -> None:
    assert "row" in methods_file(METHODS + text)


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
        ("run: {seeds: [0]}\nrun: {seeds: [1]}", ["changes.yaml line 2", "the key 'run' appears twice"]),
        ("__use_yte__: true", ["changes.yaml: has __use_yte__", "plain values"]),
        ("run:\n  seeds: [010]", ["changes.yaml line 2: YAML reads 010 as octal, 8; write it without the leading zero"]),
        ("run: {seeds: [00]}", ["changes.yaml line 1: YAML reads 00 as octal, 0"]),
        ("run: {seeds: [1:30]}", ["changes.yaml line 1: YAML reads 1:30 as the number 90, to base 60; put it in quotes"]),
        ("view: {radius: 1:30.5}", ["YAML reads 1:30.5 as the number 90.5"]),
        ("run: {examples: [2026-11-26]}", ["changes.yaml line 1: YAML reads 2026-11-26 as a date; put it in quotes"]),
        ("view: {sets: {on: {count: 2}}}", ["changes.yaml line 1: YAML reads the key on as true or false; put it in quotes"]),
        ("view: {sets: {1: {count: 2}}}", ["reads the key 1 as a number"]),
        ("view: {sets: {~: {count: 2}}}", ["reads the key ~ as nothing"]),
        ("view: {size: 1e3}", ["view.size is '1e3'", "integer"]),
        ("run: {seeds: [yes]}", ["changes.yaml: run: seeds is [True], which is neither a number nor text", "reads yes, no"]),
        ("view: {size: true}", ["changes.yaml: view: size is True"]),
        ("view: {radius: .nan}", ["changes.yaml: view.radius is nan", "finite"]),
        ("view: {sets: {ring: {first_azimuth: .inf}}}", ["changes.yaml: view.sets.ring.first_azimuth is inf", "finite"]),
        ("view: {sets: {ring: {polar: 181}}}", ["view.sets.ring.polar is 181", "less than or equal to 180"]),
        ("view: {fov: 180}", ["view.fov is 180", "less than 180"]),
        ("view: {sets: {ring: {count: 1000000000}}}", ["view.sets.ring.count is 1000000000", "10000"]),
        ("view: {sets: {Ring: {}}}", ["view.sets", "'ring' and 'Ring' differ only in case"]),
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


def test_numbers_and_names_that_yaml_reads_as_text_are_what_they_say(suite_of) -> None:
    settings = suite_of("{run: {seeds: [08, 1_0]}, view: {radius: 2e0, sets: {'on': {count: 2}, y: {count: 0x3}}}}").settings
    assert settings.run.seeds == [8, 10] and settings.view.radius == 2
    assert {"on", "y"} <= settings.view.sets.keys() and settings.view.sets["y"].count == 3


@pytest.mark.parametrize("truth", ["yes", "on", "true", "y"])
def test_words_for_true(suite_of, truth: str) -> None:
    assert suite_of(f"compute: {{speed: {{tf32: {truth}}}}}").settings.compute.speed.tf32 is True


def test_json_is_read_as_snakemake_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{\t"view": {"radius": 1e0, "1": "010"}}')
    assert read_yaml(file) == {"view": {"radius": 1.0, "1": "010"}}
    file.write_text('{"run": 1, "run": 2}')
    assert refused(read_yaml, file) == f"{file}: not valid JSON: the key 'run' appears twice."
    file.write_text('{"run": 1,}')
    assert "run.json: not valid JSON: Expecting property name" in refused(read_yaml, file)
    file.write_text('{"__use_yte__": true}')
    assert "has __use_yte__" in refused(read_yaml, file)


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
        ("demo-cells", "files of the same name"),
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
        ("[dog, own]", "must start with own"),
        ("[own, dog, dog]", "once each"),
        ("[]", "must start with own"),
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
        (["name,prompt,imge", "dog,a dog,x.png"], ["line 1", "the column 'imge' is not known", "did you mean 'image'?"]),
        (["name,prompt,image", "dog,a red, big dog,x.png"], ["line 2", "more cells than the header", "quotes"]),
        (["name,prompt,image", "dog,,x.png"], ["line 2", "prompt is missing"]),
        (["name,prompt,image", "my dog,a dog,x.png"], ["line 2", "'my dog'", "letters, digits"]),
        (["name,prompt,image", "dog,a dog,x.png", "dog,a dog,y.png"], ["line 3", "'dog' already exists"]),
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
