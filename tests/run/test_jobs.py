"""What the rules' jobs read and are called with, without Snakemake."""

import json
import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
from repository_paths import REPOSITORY

from magic123.records.errors import InputError
from magic123.run.jobs import MINIATURES, Jobs, miniature_inputs, miniature_options
from magic123.run.jobs_base import as_inputs, one_of, shell_words
from magic123.run.jobs_evaluate import metric_weights_option
from magic123.run.load import read_suite
from magic123.settings.method import load_methods
from magic123.settings.stage import lay_over
from magic123.settings.versions import setting_versions

DEMO = {"dataset": "demo", "example": "orange_boat", "seed": "0"}


@pytest.fixture
def jobs_of(tmp_path, monkeypatch):
    """The jobs of the demo with `changes` laid over its configuration."""
    monkeypatch.chdir(REPOSITORY)

    def load(**changes) -> Jobs:
        (tmp_path / "changes.yaml").write_text(json.dumps(changes))
        return Jobs(read_suite([tmp_path / "changes.yaml"]))

    return load


def cell(method: str, stage: str, **changes: str) -> SimpleNamespace:
    return SimpleNamespace(**DEMO | {"method": method, "stage": stage} | changes)


def options(line: str) -> dict[str, str]:
    """{option: value} of a command line whose options are given once, with one value."""
    words = shlex.split(line)
    return dict(zip(words[::2], words[1::2], strict=True))


def test_words_and_names():
    assert shell_words("--prompt", "a red dog", 3) == "--prompt 'a red dog' 3"
    assert one_of(["b", "a.c", "b"]) == r"a\.c|b" and one_of([]) == "(?!)"


def test_an_example_and_its_options(jobs_of):
    jobs, at = jobs_of(), cell("both", "fine")
    row = jobs.row(at)
    assert jobs.example_files(at)["image"] == f"datasets/{row.image}"
    given = options(jobs.example_options(at))
    assert given["--name"] == "orange_boat" and given["--prompt"] == row.prompt
    assert json.loads(given["--camera"])["polar"] == row.polar
    assert given["--depth-weights"] == jobs.suite.weights[jobs.suite.prepare_weights()["depth"]].path
    with pytest.raises(InputError, match=r"demo has no example 'dog'; see datasets/demo\.csv"):
        jobs.example_files(cell("both", "fine", example="dog"))


def test_columns_that_are_filled_in_and_not_used_are_named(jobs_of):
    """In a sentence at the start of the run, and by `prepare` in the quality report."""
    jobs = jobs_of()
    row = jobs.row(cell("both", "fine"))
    jobs.suite.manifests["demo"]["orange_boat"] = row.model_copy(update={"mask": row.image, "token": row.image})
    at = cell("both", "fine")
    assert jobs.example_options(at).endswith("--ignored mask token") and "mask" not in jobs.example_files(at)
    first, second = jobs.suite.ignored_sentences()
    assert first.startswith("datasets/demo.csv: the column mask is filled in for 1 example but not used: prepare.settings.mask")
    assert "invert.given is false" in second
    assert jobs_of().suite.ignored_sentences() == []


def test_a_stage_reads_where_it_starts_from_and_what_its_priors_need(jobs_of):
    jobs, at = jobs_of(), cell("both", "fine")
    inputs = jobs.stage_inputs(at)
    folder = "results/demo/orange_boat"
    assert list(inputs) == ["example", "weights", "init", "token"]
    assert inputs["init"] == f"{folder}/both/seed0/coarse/checkpoint.safetensors"
    assert (inputs["example"], inputs["token"]) == (f"{folder}/example", f"{folder}/token")
    assert set(jobs.weight_files(*jobs.stage_weights(at))) == set(inputs["weights"])
    words = shlex.split(jobs.stage_options(at))
    assert words[:4] == ["--init", f"{folder}/both/seed0/coarse", "--token", f"{folder}/token"]
    assert words[4::2] == ["--weights"] * len(jobs.stage_weights(at))
    assert len(jobs.stage_revisions(at)) == len(jobs.stage_weights(at))
    assert json.loads(jobs.stage_settings(at))["scene"] == "dmtet"
    with pytest.raises(InputError, match=r"the method both has no stage 'last' \(known: coarse, fine\)"):
        jobs.stage_inputs(cell("both", "last"))


def test_a_given_token_is_in_the_example(jobs_of):
    jobs = jobs_of()
    invert = jobs.suite.settings.invert.model_copy(update={"given": True})
    suite = SimpleNamespace(**vars(jobs.suite) | {"settings": jobs.suite.settings.model_copy(update={"invert": invert})})
    suite.weights_of = jobs.suite.weights_of
    assert Jobs(suite).stage_inputs(cell("both", "coarse"))["token"] == "results/demo/orange_boat/example"


def test_reference_pictures_of_other_examples(jobs_of):
    jobs, at = jobs_of(), cell("wrong-reference", "coarse")
    (other,) = jobs.other_references(jobs.stage(at), "demo", "orange_boat")
    assert other == jobs.suite.next_example("demo", "orange_boat")
    assert jobs.stage_inputs(at)["reference"] == [f"results/demo/{other}/example"]
    assert f"--reference results/demo/{other}/example" in jobs.stage_options(at)
    changes = {"priors": {"zero123": {"reference": ["own", "yellow_dog", "green_truck"]}}}
    several = type(jobs.stage(at)).model_validate(lay_over(jobs.stage(at).model_dump(exclude_unset=True), changes))
    assert jobs.other_references(several, "demo", "orange_boat") == ["yellow_dog", "green_truck"]
    assert jobs.other_references(jobs.stage(cell("both", "coarse")), "demo", "orange_boat") == []


def test_only_a_scene_of_drawn_samples_needs_the_views(jobs_of):
    jobs = jobs_of()
    methods = load_methods("config/methods.yaml")
    drawn = next((name, stage) for name in methods for stage, s in methods[name].stages.items() if s.scene == "samples")
    words = shlex.split(jobs.stage_options(cell(*drawn)))
    assert json.loads(words[words.index("--views") + 1]).keys() == {"sets", "radius", "fov", "turntable_frames"}
    assert "--views" not in jobs.stage_options(cell("both", "coarse"))


def test_a_score_compares_with_what_there_is(jobs_of):
    jobs, at = jobs_of(), cell("both", "fine")
    inputs = jobs.score_inputs(at)
    folder = "results/demo/orange_boat/both/seed0/fine"
    assert (inputs["views"], inputs["mesh"], inputs["record"]) == (f"{folder}/views", f"{folder}/mesh", f"{folder}/stage.json")
    assert "truth" in inputs and "published" not in inputs
    words = shlex.split(jobs.score_options(at))
    assert words[:2] == ["--mesh", f"{folder}/mesh/mesh.obj"] and words[words.index("--truth") + 1] == inputs["truth"]
    assert words[words.index("--caption") + 1] == jobs.row(at).prompt
    words = shlex.split(jobs_of(score={"protocols": ["as-published"]}).score_options(cell("copy-reference", "coarse")))
    assert words[1] == "none" and words[words.index("--published") + 1] == "datasets/demo/orange_boat"


def test_weights_of_a_metric(jobs_of):
    weights = jobs_of().suite.weights
    assert metric_weights_option(weights["lpips-alex"])[0] == "--lpips"
    assert metric_weights_option(weights["lpips-alex"])[1].startswith(f"alex={weights['lpips-alex'].path}/")
    folders = [entry for entry in weights.values() if entry.kind in ("clip", "perceptual")]
    assert folders and all(metric_weights_option(entry) == [f"--{entry.kind}", entry.path] for entry in folders)


def test_methods_of_other_systems(jobs_of, tmp_path):
    jobs = jobs_of()
    theirs = SimpleNamespace(
        renders=f"{tmp_path}/{{dataset}}/{{example}}/{{seed}}", gives_renders=True, gives_mesh=False, command=None
    )
    suite = SimpleNamespace(methods={"theirs": theirs, **jobs.suite.methods}, path_of=lambda path: path)
    found = Jobs(suite)
    assert found.rendered_methods == ["theirs", *jobs.rendered_methods]
    at = cell("theirs", "renders")
    assert found.render_files(at) == []
    (tmp_path / "demo" / "orange_boat" / "0" / "ring").mkdir(parents=True)
    (tmp_path / "demo" / "orange_boat" / "0" / "ring" / "000.png").touch()
    assert found.render_files(at) == [f"{tmp_path}/demo/orange_boat/0/ring/000.png"]
    with pytest.raises(InputError, match="the method both has no renders"):
        found.render_folder(cell("both", "fine"))


def test_a_table_names_every_result_on_the_way(jobs_of):
    jobs = jobs_of()
    files = jobs.table_results("demo")
    at = "results/demo/orange_boat"
    assert {f"{at}/both/seed0/fine/scores.json", f"{at}/both/seed0/coarse/checkpoint.safetensors", f"{at}/example"} <= set(
        files
    )
    assert len(files) == len(set(files))
    assert "rows" not in json.loads(jobs.table_settings("demo")) and jobs.reported_numbers("demo") == []
    assert json.loads(jobs.axes("demo"))["seeds"] == [0]


def test_figures_and_pages_show_the_truth_that_the_dataset_names(jobs_of):
    jobs = jobs_of(run={"examples": ["yellow_dog", "orange_boat"]})
    rows, before = jobs.suite.manifests["demo"], jobs.truth_contents()
    assert json.loads(jobs.truths)["demo"]["yellow_dog"] == "datasets/demo/yellow_dog/truth"
    rows["yellow_dog"] = rows["yellow_dog"].model_copy(update={"truth": "demo/green_truck/truth"})
    rows["orange_boat"] = rows["orange_boat"].model_copy(update={"truth": ""})
    assert json.loads(jobs.truths) == {"demo": {"yellow_dog": "datasets/demo/green_truck/truth"}}
    assert len(jobs.truth_contents()) == 1 and jobs.truth_contents()[0] not in before
    rows["orange_boat"] = rows["orange_boat"].model_copy(update={"mesh": "demo/orange_boat/truth/mesh.ply"})
    assert json.loads(jobs.truths)["demo"]["orange_boat"] == "results/demo/orange_boat/object/truth"


def test_true_cameras_are_drawn_and_rendered_alike_and_programs_that_do_not_know_them_are_refused(jobs_of, tmp_path):
    program = {"label": "p", "command": {"run": "draw {cameras} {out}", "makes": "renders"}}
    (tmp_path / "more.yaml").write_text(json.dumps({"program": program}))
    registries = {"methods": ["config/methods.yaml", str(tmp_path / "more.yaml")]}
    files = {"run": {"methods": ["mini-zero123-views"], "tables": ["presets"]}, "registries": registries}
    cameras = "datasets/demo/orange_boat/truth/cameras.json"
    at, plain, jobs = cell("mini-zero123-views", "views"), jobs_of(**files), jobs_of(**files, truth_cameras=True)
    for options in (jobs.stage_options(at), jobs.camera_options(at)):
        assert shlex.split(options)[shlex.split(options).index("--cameras") + 1] == cameras
    assert jobs.stage_inputs(at)["cameras"] == [cameras]
    assert repr(jobs.stage_weight_contents(at)) != repr(plain.stage_weight_contents(at))
    assert "--cameras" not in plain.stage_options(at) and "cameras" not in plain.stage_inputs(at)
    assert "--cameras" not in jobs.stage_options(cell("both", "fine"))
    with pytest.raises(InputError, match=r"program\.command makes renders, .* but truth_cameras is true"):
        jobs_of(**files | {"run": {"methods": ["program"]}}, truth_cameras=True)


def test_weights_by_origin(jobs_of):
    jobs = jobs_of()
    assert set(jobs.weights_in) == {"fetched", "converted"}
    for folder, name in jobs.weights_in["fetched"].items():
        assert jobs.downloads(folder).keys() == jobs.suite.weights[name].downloads.keys()
    for folder, name in jobs.weights_in["converted"].items():
        assert jobs.converted(folder) is jobs.suite.weights[name]
        assert jobs.base_receipt(folder) == jobs.suite.weights[jobs.suite.weights[name].made_from].receipt
    assert set(jobs.clip_folders) <= jobs.weights_in["fetched"].keys() | jobs.weights_in["converted"].keys()
    assert jobs.fetchable == {}  # the demo is in the repository


def test_ceilings_are_about_the_published_pictures(jobs_of, tmp_path, monkeypatch):
    jobs = jobs_of(ceilings={"datasets": ["nerf4"]})
    assert jobs.ceilings_folder({}) == "datasets" and jobs.ceilings_folder({"MAGIC123_DATASETS": "x"}) == "x"
    monkeypatch.setenv("MAGIC123_DATASETS", str(tmp_path))
    with pytest.raises(InputError, match=r"ceilings need .*rgba\.png, which is not there"):
        jobs.ceiling_pictures()
    assert jobs_of(ceilings={"folder": "y"}).ceilings_folder({"MAGIC123_DATASETS": "x"}) == "y"


def test_miniatures_are_trained_from_files_of_their_options():
    assert miniature_inputs("autoencoder") == {"pool": "results/miniatures/pool"}
    assert miniature_options("stable-diffusion") == (
        "--pool results/miniatures/pool --autoencoder results/miniatures/autoencoder-64"
    )
    assert {stage for stages in MINIATURES.values() for stage in stages.values()} <= MINIATURES.keys() | {"pool"}


# what makes an example and a score of it stale, by the column of the dataset that is changed
PREPARED, SCORED = {"prepare"}, {"score"}
COLUMNS = {
    "prompt": PREPARED | SCORED, "init_word": PREPARED, "image": PREPARED, "normal": PREPARED, "sha256": PREPARED,
    "polar": PREPARED, "azimuth": PREPARED, "truth": SCORED, "truth_mesh": SCORED,
    # not asked for by these settings, which the example's quality report says
    "mask": PREPARED, "depth": PREPARED, "token": PREPARED,
    "depth_sha256": set(), "normal_sha256": set(), "token_sha256": set(),
    # in place of a picture; the others are refused without it
    "mesh": PREPARED | SCORED, "up": set(), "front": set(), "scale": set(),
    # where files come from
    "address": set(), "commit": set(), "megabytes": set(), "source": set(),
}  # fmt: skip


def test_each_column_of_a_dataset_makes_stale_what_is_made_from_it(jobs_of):
    jobs, at = jobs_of(), cell("both", "fine")
    assert COLUMNS.keys() | {"name"} == type(jobs.row(at)).model_fields.keys()

    def compared(**changes) -> dict[str, tuple]:
        rows = jobs.suite.manifests["demo"]
        other = rows | {"orange_boat": rows["orange_boat"].model_copy(update=changes)}
        changed = Jobs(replace(jobs.suite, manifests={"demo": other}))
        return {
            "prepare": (changed.example_options(at), changed.example_contents(at), changed.example_inputs(at)),
            "score": (changed.score_options(at), changed.score_contents(at), changed.score_inputs(at)),
        }

    before = compared()
    for column, stale in COLUMNS.items():
        now = compared(**{column: 45.0 if column in ("polar", "azimuth", "megabytes") else "demo/yellow_dog/truth/mesh.ply"})
        assert {command for command in now if now[command] != before[command]} == stale, column


def test_a_setting_whose_meaning_changed_is_compared_where_it_is_used(jobs_of):
    jobs = jobs_of()
    used, unused = (jobs.stage_revisions(cell(method, "coarse")) for method in ("mini-realfusion", "mini-2d-only"))
    assert used == [*unused, "losses.normal_blur_detached 2"]
    assert setting_versions(jobs.stage(cell("copy-reference", "coarse"))) == []  # a stage without losses
    assert setting_versions(jobs.stage(cell("mini-realfusion", "coarse"))) == used[len(unused) :]


def test_files_whose_names_snakemake_reads_otherwise_are_no_inputs():
    files = {"a": "p/a.png", "b": "p/{lamp}.png", "c": "p/<results>.png", "d": "p/<b>bold.png"}
    assert as_inputs(files) == {"a": "p/a.png"}
