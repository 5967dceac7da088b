"""What Snakemake decides: which jobs a run has, which a change makes stale, and what a failure leaves behind."""

import importlib
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from workflow_tree import METHODS, OBJECTS, REPOSITORY, build, compared, planned_jobs, snakemake, write_lines

from magic123.settings.versions import VERSIONS

RUN = ("--configfile", "config/small.yaml")
SMALL = "{datasets: [demo], examples: [cone, dog], methods: [both, 3d-prior-only, wrong-reference], seeds: [0], tables: [demo]}"
CELLS = ("both/coarse", "both/fine", "3d-prior-only/coarse", "wrong-reference/coarse")
TABLE = {"table demo", "figure demo", "report demo", "all"}


def chain(*rows: str, examples: tuple[str, ...] = ("cone", "dog")) -> set[str]:
    """The jobs that make the scores of these rows, METHOD/STAGE each, from prepared examples."""
    return {f"{rule} {example}/{row}" for rule in ("reconstruct", "view", "score") for row in rows for example in examples}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that has finished, in a folder whose path a shell would split. Tests change copies of it."""
    root = tmp_path_factory.mktemp("finished") / "My Projects é"
    root.mkdir()
    build(root)
    write_lines(root / "config" / "small.yaml", f"run: {SMALL}")
    run = snakemake(root, *RUN)
    assert run.returncode == 0, run.text
    return root


@pytest.fixture
def tree(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "My Projects é", symlinks=True))


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {file}"
    file.write_text(text.replace(before, after))


def override(root: Path, method: str, stages: str) -> None:
    """Lay `stages` over a method by renaming it and extending it under its old name."""
    edit(root / "config" / "methods.yaml", f"\n{method}:\n", f"\n{method}-before:\n")
    with open(root / "config" / "methods.yaml", "a") as file:
        label = re.search(rf"\n{method}-before:\n(?:.*\n)*?  label: (.*)\n", Path(file.name).read_text()).group(1)
        file.write(f"\n{method}:\n  extends: {method}-before\n  label: {label}\n  stages: {stages}\n")


# --------------------------------------------------------------------------------------------------------- a first run
def test_jobs_of_a_run(tmp_path: Path) -> None:
    rows = ["both/fine", *(f"{name}/coarse" for name in METHODS)]
    expected = {f"{rule} {name}" for rule in ("prepare", "invert") for name in OBJECTS} | {"plan demo"} | TABLE
    assert planned_jobs(build(tmp_path)) == expected | chain(*rows, examples=tuple(OBJECTS))


def test_finished_run_is_finished(tree: Path) -> None:
    assert planned_jobs(tree, *RUN) == set()
    table = (tree / "reports" / "demo.csv").read_text().splitlines()
    assert len(table) == 2 * len(CELLS) and all(line.endswith(": ok") for line in table)


def test_wrong_reference_needs_the_next_example(tree: Path) -> None:
    # dog's is house, which the run does not select: it is prepared, and nothing else is done with it
    assert (tree / "results/demo/house/example/example.json").is_file()
    assert sorted(path.name for path in (tree / "results/demo/house").iterdir()) == ["example"]


def test_a_run_says_beforehand_how_long_it_takes(tree: Path) -> None:
    for file in (tree / "benchmarks" / "demo").rglob("*.jsonl"):
        file.write_text('{"s": 1800.0, "cpu_time": 5.0, "max_rss": 10.0}\n')
    edit(tree / "config" / "small.yaml", "[cone, dog]", "[cone, dog, house]")
    run = snakemake(tree, *RUN)
    assert run.returncode == 0, run.text
    # house: prepared already; a token, and three jobs for each of four stages
    assert "13 jobs of networks and metrics: about 6.5 hours of work" in run.stderr


def test_logs_and_benchmarks_of_every_job(tree: Path) -> None:
    cell = "demo/cone/both/seed0/fine"
    for step in ("reconstruct", "view", "score"):
        assert (tree / "logs" / cell / f"{step}.log").is_file()
        assert (tree / "benchmarks" / cell / f"{step}.jsonl").is_file()


def test_rules_use_options_that_the_commands_have(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Every option that a rule gives is one that the real command knows."""
    root, given = build(tmp_path), {}
    publish(root / "datasets")
    for file in (*(REPOSITORY / "weights/miniature").rglob("*.json"), REPOSITORY / "weights/miniature/trainings.tsv"):
        copy = root / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    for targets in ((), ("miniatures", "ceilings", "reports/methods.md")):
        run = snakemake(root, "-n", "-p", *targets)
        assert run.returncode == 0, run.text
        for line in re.findall(r"python -m .*?(?= > logs/| 2>&1 \| tee logs/)", run.stdout):
            module, command, *words = shlex.split(line)[2:]
            assert module == "magic123"
            given.setdefault(command, set()).update(word for word in words if word.startswith("--"))
    commands = {"prepare", "invert", "reconstruct", "view", "score", "table", "figure", "report", "ceilings", "plan", "methods"}
    commands.add("miniatures")
    assert commands <= given.keys()
    for command, options in given.items():
        assert importlib.import_module("magic123.__main__").main([command, "--help"]) == 0
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert options <= known, f"{command} does not know {', '.join(sorted(options - known))}"


def publish(folder: Path) -> None:
    """Empty files in place of the published pictures, and the two manifests that name them."""
    for dataset, example in (("nerf4", "chair"), ("realfusion15", "cactus")):
        file = folder / dataset / example / "rgba.png"
        file.parent.mkdir(parents=True)
        file.touch()
        write_lines(folder / f"{dataset}.csv", "name,prompt,image", f"{example},a {example},{dataset}/{example}/rgba.png")


def test_ceilings_are_about_the_published_pictures_whatever_the_run_is_about(tmp_path: Path) -> None:
    root = build(tmp_path)
    publish(root / "datasets")
    run = snakemake(root, "-n", "-p", "ceilings")
    assert run.returncode == 0, run.text
    assert "--datasets datasets --names nerf4 realfusion15" in run.stdout
    shutil.move(root / "datasets" / "nerf4", root / "elsewhere" / "nerf4")
    run = snakemake(root, "-n", "ceilings")
    assert run.returncode != 0 and "error: ceilings need datasets/nerf4/chair/rgba.png" in run.text
    assert "datasets/README.md" in run.text and "Traceback" not in run.text
    shutil.move(root / "datasets" / "realfusion15", root / "elsewhere" / "realfusion15")
    run = snakemake(root, "-n", "-p", "ceilings", MAGIC123_DATASETS="elsewhere")
    assert run.returncode == 0 and "--datasets elsewhere" in run.stdout, run.text


def test_snakemakes_own_report(tree: Path) -> None:
    run = snakemake(tree, *RUN, "--report", "run.zip")
    assert run.returncode == 0, run.text
    with zipfile.ZipFile(tree / "run.zip") as bundle:
        names = {Path(name).name for name in bundle.namelist()}
    assert {"report.html", "demo-report.html", "demo.png"} <= names


# ----------------------------------------------------------------------------------------------------------- staleness
def test_one_weight_reruns_its_own_row_only(tree: Path) -> None:
    override(tree, "wrong-reference", "{coarse: {priors: {zero123: {weight: 0.5}}}}")
    assert planned_jobs(tree, *RUN) == chain("wrong-reference/coarse") | TABLE


def test_one_weight_reruns_the_rows_that_inherit_it(tree: Path) -> None:
    override(tree, "3d-prior-only", "{coarse: {losses: {rgb: 4}}}")
    assert planned_jobs(tree, *RUN) == chain("3d-prior-only/coarse", "wrong-reference/coarse") | TABLE


def test_fine_weight_leaves_coarse_alone(tree: Path) -> None:
    override(tree, "both", "{fine: {losses: {laplacian: 0.2}}}")
    assert planned_jobs(tree, *RUN) == chain("both/fine") | TABLE


def test_coarse_weight_reruns_what_starts_from_it(tree: Path) -> None:
    override(tree, "both", "{coarse: {losses: {mask: 0.4}}}")
    assert planned_jobs(tree, *RUN) == chain("both/coarse", "both/fine") | TABLE


def test_label_remakes_the_table_only(tree: Path) -> None:
    before = "\n3d-prior-only:\n  extends: mini\n  label: "
    edit(tree / "config" / "methods.yaml", before, f"{before}the ")
    assert planned_jobs(tree, *RUN) == {"plan demo"} | TABLE
    assert snakemake(tree, *RUN).returncode == 0
    assert "cone/3d-prior-only/0/coarse: the 3D prior only: ok" in (tree / "reports" / "demo.csv").read_text()


def test_comment_reruns_nothing(tree: Path) -> None:
    edit(tree / "config" / "methods.yaml", "3d-prior-only:\n", "# a remark\n3d-prior-only:   # another\n")
    assert planned_jobs(tree, *RUN) == set()


def test_new_row_computes_itself_only(tree: Path) -> None:
    with open(tree / "config" / "methods.yaml", "a") as file:
        file.write("\nstrong-3d:\n  extends: 3d-prior-only\n  stages: {coarse: {priors: {zero123: {weight: 9}}}}\n")
    edit(tree / "config" / "small.yaml", "wrong-reference]", "wrong-reference, strong-3d]")
    assert planned_jobs(tree, *RUN) == chain("strong-3d/coarse") | {"plan demo"} | TABLE


def test_stage_of_another_method_is_shared(tree: Path) -> None:
    with open(tree / "config" / "methods.yaml", "a") as file:
        file.write("\nfine-only:\n  extends: both\n  stages: {coarse: null, fine: {init: both/coarse}}\n")
    edit(tree / "config" / "small.yaml", "wrong-reference]", "wrong-reference, fine-only]")
    assert planned_jobs(tree, *RUN) == chain("fine-only/fine") | {"plan demo"} | TABLE


def test_new_seed_computes_itself_only(tree: Path) -> None:
    edit(tree / "config" / "small.yaml", "seeds: [0]", "seeds: [0, 1]")
    assert planned_jobs(tree, *RUN) == chain(*CELLS) | {"plan demo"} | TABLE
    run = snakemake(tree, "-n", *RUN)
    assert "seed=1" in run.stdout and "seed=0" not in run.stdout


def test_code_version_reruns_its_command(tree: Path) -> None:
    edit(tree / "magic123" / "settings" / "versions.py", f'"view": {VERSIONS["view"]}', '"view": 99')
    rerun = {job for job in chain(*CELLS) if not job.startswith("reconstruct")}
    assert planned_jobs(tree, *RUN) == rerun | TABLE


def test_changed_weights_rerun_what_used_them(tree: Path) -> None:
    (tree / "weights/miniature/zero123/unet/diffusion_pytorch_model.safetensors").write_text("trained again")
    assert planned_jobs(tree, *RUN) == chain(*CELLS) | TABLE
    (tree / "weights/miniature/perceptual/model.safetensors").write_text("trained again")
    assert "invert cone" not in planned_jobs(tree, *RUN)


def test_resources_rerun_nothing(tree: Path) -> None:
    write_lines(
        tree / "config" / "small.yaml", f"run: {SMALL}", "compute: {mem_mb: 9000, runtime: 7, threads: 2, save_seconds: 5}"
    )
    assert planned_jobs(tree, *RUN) == set()


def test_a_card_for_each_job_reruns_nothing_and_goes_through_the_lease(tree: Path) -> None:
    write_lines(tree / "config" / "small.yaml", f"run: {SMALL}", "compute: {gpu: 1, jobs_per_gpu: 2, cpu_slots: 1}")
    assert planned_jobs(tree, *RUN) == set()
    shutil.rmtree(tree / "results/demo/dog/3d-prior-only/seed0/coarse/views")
    run = snakemake(tree, *RUN, "-p", CUDA_VISIBLE_DEVICES="0,1", XDG_RUNTIME_DIR=str(tree))
    assert run.returncode == 0, run.text
    log = (tree / "logs/demo/dog/3d-prior-only/seed0/coarse/view.log").read_text()
    assert log.splitlines()[0].startswith("lease: ")


def replace(file: Path) -> None:
    """Put another file in its place, as old as files unpacked from an archive."""
    file.write_text("another")
    os.utime(file, (1, 1))


def test_an_older_picture_in_place_of_another_is_noticed(tree: Path) -> None:
    replace(tree / "datasets/demo/house/rgba.png")  # shown to the prior of dog, and nothing else
    wrong = {f"{rule} dog/wrong-reference/coarse" for rule in ("reconstruct", "view", "score")}
    assert planned_jobs(tree, *RUN) == {"prepare house"} | wrong | TABLE


def test_a_picture_that_changes_while_it_is_prepared_is_prepared_again(tmp_path: Path) -> None:
    tree = build(tmp_path)
    write_lines(
        tree / "config" / "small.yaml",
        "run: {datasets: [demo], examples: [cone], methods: [copy-reference], seeds: [0], tables: [demo]}",
    )
    commands = tree / "magic123" / "__main__.py"
    before = commands.read_text()
    commands.write_text(before + "\nif command == 'prepare':\n    Path(options['image']).write_text('changed meanwhile')\n")
    assert snakemake(tree, *RUN).returncode == 0
    commands.write_text(before)
    assert "prepare cone" in planned_jobs(tree, *RUN)
    assert snakemake(tree, *RUN).returncode == 0 and planned_jobs(tree, *RUN) == set()


def test_older_files_in_place_of_those_of_others_are_noticed(tmp_path: Path) -> None:
    """Pictures, meshes and true views that were put there, and the networks of metrics."""
    tree = build(tmp_path)
    ring, mesh = tree / "datasets/demo/cone/truth/ring/000.png", tree / "datasets/foreign/meshes/demo/cone.ply"
    shown = tree / "datasets/foreign/renders/demo/cone/reference/000.png"
    for file in (ring, mesh, shown):
        file.parent.mkdir(parents=True)
        file.write_text("one")
    with open(tree / "config" / "methods.yaml", "a") as file:
        file.write(
            "\ntheirs: {label: theirs, meshes: 'foreign/meshes/{dataset}/{example}.ply'}"
            "\nshown: {label: shown, renders: 'foreign/renders/{dataset}/{example}'}\n"
        )
    run = "{datasets: [demo], examples: [cone], methods: [theirs, shown], seeds: [0], tables: [demo]}"
    write_lines(tree / "config" / "small.yaml", f"run: {run}")
    scores = {"theirs": "score cone/theirs/meshes", "shown": "score cone/shown/renders"}
    assert snakemake(tree, *RUN).returncode == 0 and planned_jobs(tree, *RUN) == set()
    for file, jobs in (
        (mesh, {"adopt_mesh cone/theirs/meshes", scores["theirs"]}),
        (shown, {"adopt cone/shown/renders", scores["shown"]}),
        (ring, set(scores.values())),
        (tree / "weights/miniature/perceptual/model.safetensors", set(scores.values())),
    ):
        before = file.read_bytes()
        replace(file)
        assert planned_jobs(tree, *RUN) - TABLE == jobs, file
        file.write_bytes(before)
        os.utime(file, (1, 1))
        assert planned_jobs(tree, *RUN) == set()


def test_changes_inside_folders_are_noticed_and_made_good_once(tree: Path) -> None:
    replace(tree / "datasets/demo/cone/truth/mesh.ply")
    (tree / "results/demo/dog/both/seed0/fine/views/cameras.json").unlink()
    replace(tree / "results/demo/dog/both/seed0/coarse/mesh/mesh.obj")
    again = {f"{rule} dog/both/{stage}" for rule in ("view", "score") for stage in ("coarse", "fine")}
    scores = {job for job in chain(*CELLS, examples=("cone",)) if job.startswith("score")}
    assert planned_jobs(tree, *RUN) == again | scores | TABLE
    assert snakemake(tree, *RUN).returncode == 0 and planned_jobs(tree, *RUN) == set()


def test_a_line_more_in_a_dataset_scores_its_captions_again(tree: Path) -> None:
    with open(tree / "datasets" / "demo.csv", "a") as file:
        file.write("ship,a red ship,ship,demo/house/rgba.png,90,,\n")
    assert {job for job in planned_jobs(tree, *RUN) if job.startswith("score")} == {
        job for job in chain(*CELLS) if job.startswith("score")
    }


def test_examples_of_meshes_are_rendered_first_and_again_where_a_texture_or_a_view_changes(tree: Path) -> None:
    shutil.rmtree(tree / "datasets" / "demo" / "house")
    (tree / "datasets" / "demo" / "chair").mkdir()
    for name, text in (("m.obj", "mtllib m.mtl\n"), ("m.mtl", "newmtl a\nmap_Kd t.png\n"), ("t.png", "a picture")):
        (tree / "datasets" / "demo" / "chair" / name).write_text(text)
    write_lines(tree / "datasets/meshes.csv", "name,prompt,mesh,up,front", "chair,a chair,demo/chair/m.obj,z,-y")
    run = "{datasets: [meshes], examples: all, methods: [3d-prior-only], seeds: [0], tables: [demo]}"
    write_lines(tree / "config" / "small.yaml", f"run: {run}")
    scored = chain("3d-prior-only/coarse", examples=("chair",))
    assert planned_jobs(tree, *RUN) == {"from_mesh chair", "prepare chair", "plan demo"} | scored | TABLE
    run = snakemake(tree, *RUN, "-p")
    assert run.returncode == 0, run.text
    assert (
        "--truth results/meshes/chair/object/truth --truth-mesh results/meshes/chair/object/mesh.ply" in run.stdout + run.stderr
    )
    assert planned_jobs(tree, *RUN) == set()
    (tree / "results/meshes/chair/object/truth/cameras.json").unlink()
    assert "from_mesh chair" in planned_jobs(tree, *RUN)
    assert snakemake(tree, *RUN).returncode == 0 and planned_jobs(tree, *RUN) == set()
    replace(tree / "datasets/demo/chair/t.png")
    assert {"from_mesh chair", "prepare chair", *scored} <= planned_jobs(tree, *RUN)
    assert snakemake(tree, *RUN).returncode == 0 and planned_jobs(tree, *RUN) == set()
    edit(tree / "datasets/meshes.csv", "z,-y", "z,x")
    assert "from_mesh chair" in planned_jobs(tree, *RUN)


def test_another_view_set_draws_samples_again(tree: Path) -> None:
    """The pictures of a scene of samples are drawn by `reconstruct`, for the places that `view` will show."""
    run = "{datasets: [demo], examples: [cone], methods: [both, views], seeds: [0], tables: [demo]}"
    with open(tree / "config" / "methods.yaml", "a") as file:
        prior = "{kind: zero123, weights: miniature-zero123, weight: 1, guidance_scale: 3, t_range: [0.2, 0.6]}"
        file.write(f"\nviews: {{stages: {{coarse: {{scene: samples, steps: 0, priors: {{zero123: {prior}}}}}}}}}\n")
    write_lines(tree / "config" / "small.yaml", f"run: {run}")
    assert snakemake(tree, *RUN).returncode == 0
    write_lines(tree / "config" / "small.yaml", f"run: {run}", "view: {sets: {ring: {count: 5}}}")
    planned = planned_jobs(tree, *RUN)
    assert {job for job in planned if job.startswith("reconstruct")} == {"reconstruct cone/views/coarse"}
    assert {"view cone/views/coarse", "view cone/both/fine"} <= planned


def test_no_parameter_depends_on_what_snakemake_does_not_compare(tmp_path: Path) -> None:
    """Snakemake compares no parameter of a function that takes more than the wildcards."""
    asked = compared(build(tmp_path))["asked"]
    assert len(asked) > 40
    assert not {name: arguments for name, arguments in asked.items() if arguments != ["wildcards"]}
    for file in (REPOSITORY / "rules").glob("*.smk"):
        assert "subpath(" not in file.read_text()


def test_every_word_of_a_shell_line_is_quoted() -> None:
    # several words, each quoted already; card is `on_card` or nothing
    whole = {"params.options", "params.about", "params.cameras", "params.names", "params.card"}
    for file in (REPOSITORY / "rules").glob("*.smk"):
        for line in re.findall(r'^    shell:\n +"(.*)"$', file.read_text(), re.MULTILINE):
            assert {word for word in re.findall(r"(?<!{){([^{}]*)}", line) if not word.endswith(":q")} <= whole, line


def test_table_in_a_clone_does_not_stand_for_results(tree: Path) -> None:
    shutil.rmtree(tree / "results")
    shutil.rmtree(tree / ".snakemake")
    assert chain(*CELLS) <= planned_jobs(tree, *RUN)


# ------------------------------------------------------------------------------------------------------------ failures
@pytest.mark.requirement(id="R27")
def test_a_failed_cell_is_in_the_table_and_is_computed_again(tree: Path) -> None:
    override(tree, "both", "{coarse: {losses: {mask: 0.4}}}")
    run = snakemake(tree, *RUN, FAIL="results/demo/dog/both/seed0/coarse")
    assert run.returncode != 0
    lines = (tree / "reports" / "demo-unfinished.csv").read_text().splitlines()
    failed = [line for line in lines if not line.endswith(": ok")]
    assert failed == [
        f"dog/both/0/{stage}: both priors: reconstruct: reconstruct was told to fail" for stage in ("coarse", "fine")
    ]
    page = (tree / "reports" / "demo-unfinished-report.html").read_text().splitlines()
    assert page == ["page", *["logs/demo/dog/both/seed0/coarse/reconstruct.log"] * 2]  # both cells: for want of one scene
    assert not (tree / "reports" / "demo-report.html").exists()
    for target in ((), ("reports/demo.csv",)):  # the scores of before the change do not pass for the new ones
        assert chain("both/coarse", "both/fine", examples=("dog",)) | {"table demo"} <= planned_jobs(tree, *target, *RUN)
    part = snakemake(tree, "results/demo/dog/both/seed0/coarse/scores.json", *RUN)
    assert part.returncode == 0 and "Table: " not in part.stdout + part.stderr
    assert (tree / "reports" / "demo-unfinished.csv").exists() and (tree / "results" / "unfinished.txt").exists()
    assert snakemake(tree, *RUN).returncode == 0
    assert all(line.endswith(": ok") for line in (tree / "reports" / "demo.csv").read_text().splitlines())
    assert not list((tree / "reports").glob("demo-unfinished*"))
    assert not [
        name for name in ("failures", "unfinished.txt", "plans/demo-unfinished.json") if (tree / "results" / name).exists()
    ]
    assert (tree / "reports" / "demo-report.html").exists()


def test_a_download_that_fails_in_a_fresh_clone_ends_with_its_sentence(tmp_path: Path) -> None:
    root = build(tmp_path)
    write_lines(root / "config" / "small.yaml", "score: {weights: [lpips-alex]}")
    run = snakemake(root, "prefetch", *RUN, FAIL="prefetch")
    assert run.returncode and "error: prefetch was told to fail" in run.text and "FileNotFoundError" not in run.text
    assert (root / "results" / "unfinished.txt").read_text() == "weights/lpips-alex/receipt.json\n"


# ------------------------------------------------------------------------------------------------------ the whole suite
def test_large_run_is_planned_in_seconds(tmp_path: Path) -> None:
    root = build(tmp_path)
    rows = [f"example{n},a thing,thing,demo/cone/rgba.png" for n in range(19)]
    write_lines(root / "datasets" / "large.csv", "name,prompt,init_word,image", *rows)
    with open(root / "config" / "methods.yaml", "a") as file:
        for n in range(12):
            file.write(f"\nrow{n}:\n  extends: both\n  stages: {{coarse: {{losses: {{rgb: {n + 1}}}}}}}\n")
    methods = ", ".join(f"row{n}" for n in range(12))
    write_lines(root / "config" / "large.yaml", f"run: {{datasets: [large], examples: all, methods: [{methods}], seeds: [0]}}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "snakemake", "-n", "-q", "rules", "--configfile", "config/large.yaml"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^reconstruct +456$", run.stdout, re.MULTILINE)  # 19 examples, 12 methods, 2 stages
    # processor time, because the clock depends on what else runs: about 5 s for 1408 jobs where this was written
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20


def test_graph_is_built_without_the_networks_library() -> None:
    modules = "magic123.run.accounting, magic123.run.load, magic123.run.plan"
    code = f"import {modules}, sys; print([name for name in ('torch', 'numpy', 'cv2') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_default_profile_is_found(tmp_path: Path) -> None:
    run = snakemake(build(tmp_path), "-n", "-q", "rules")
    assert "profiles/default" in run.text


def test_lint(tmp_path: Path) -> None:
    run = snakemake(build(tmp_path), "--lint")
    assert run.returncode == 0, run.text


def test_rules_are_formatted() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("file", sorted((REPOSITORY / "rules").glob("*.smk")), ids=lambda file: file.name)
def test_rules_are_shell_lines(file: Path) -> None:
    """Each rule is one shell line with a log; retries multiply on clusters when a rule asks for them."""
    text = file.read_text()
    rules = re.split(r"^rule \w+:$", text, flags=re.MULTILINE)[1:]
    for directive in ("run", "script", "retries", "notebook", "wrapper"):
        assert not re.search(rf"^    {directive}:", text, re.MULTILINE), f"{file.name} has {directive}:"
    for rule in rules:
        if "    output:" in rule:
            assert "    shell:" in rule and "    log:" in rule
            assert len(rule[rule.index("    shell:") :].strip().splitlines()) == 2


def test_a_changed_line_of_a_dataset_prepares_that_example_again(tree: Path) -> None:
    edit(tree / "datasets" / "demo.csv", "a red dog", "a blue dog")
    planned = planned_jobs(tree, *RUN)
    assert {job for job in planned if job.startswith(("prepare", "invert"))} == {"prepare dog", "invert dog"}


def test_further_pictures_of_an_object_are_prepared_and_given(tree: Path) -> None:
    """Examples of the dataset that the run does not list, with the angle at which they were taken."""
    with open(tree / "config" / "methods.yaml", "a") as file:
        line = "stages: {coarse: {priors: {zero123: {reference: [own, house, cone]}}}}"
        file.write(f"\nthree-pictures: {{extends: 3d-prior-only, {line}}}\n")
    csv = tree / "datasets" / "demo.csv"
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join([lines[0] + ",azimuth", *(f"{line},{40 * n or ''}" for n, line in enumerate(lines[1:]))]) + "\n")
    words = ["results/demo/dog/three-pictures/seed0/coarse/checkpoint.safetensors", "--configfile", "config/small.yaml"]
    run = snakemake(
        tree, "-n", "-p", *words, "--config", "run={methods: [both, 3d-prior-only, wrong-reference, three-pictures]}"
    )
    assert run.returncode == 0, run.text
    prepared = {name for name in OBJECTS if f"--name {name} " in run.text}
    assert prepared == {"dog", "house"}  # cone stands at azimuth 0, as before, and is not made again
    assert '"azimuth": 80.0' in run.text
    assert "--reference results/demo/house/example --reference results/demo/cone/example" in run.text
