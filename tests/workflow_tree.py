"""A copy of the workflow in a folder of its own, over a tiny dataset, with commands that only check and leave marks.

The Snakefile, rules, configuration and settings code are the repository's own. The commands of `python -m magic123`
are replaced by ones that demand the files the real ones read and write the files the real ones write, so that a whole run
takes seconds; what they are asked to do is Snakemake's decision, and that is what the tests are about.
"""

import atexit
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from project_folder import project_folder
from repository_paths import REPOSITORY

ROOMS = ["records", "settings", "run", "weights", "commands"]  # what the Snakefile imports lies in these, and commands that run
OBJECTS = ["cone", "dog", "house"]

COMMANDS = """
import json, os, signal, sys, time
from pathlib import Path

command, words = sys.argv[1], sys.argv[2:]
if command in ("plan", "methods", "lease"):  # the real ones: they need no network of weights
    from importlib import import_module
    from magic123.records.errors import InputError
    try:
        import_module(f"magic123.commands.{command}").main(words)
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit()
options, repeated = {}, []
for word, value in zip(words, words[1:]):
    if word.startswith("--"):
        options[word[2:]] = value
        repeated.append((word[2:], value))

def need(*names):
    for name in names:
        if not Path(name).exists():
            sys.exit(f"error: {command} lacks {name}")

def write(folder, *names):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Path(folder, name).write_text(command)

def mark(line):
    os.write(os.open("marks", os.O_WRONLY | os.O_APPEND | os.O_CREAT), (line + "\\n").encode())

if "MARK" in os.environ:
    mark(f"{command} on card {os.environ.get('CUDA_VISIBLE_DEVICES')}")
if command == os.environ.get("MEET"):  # waits for a job like itself on another of SLURM's nodes
    Path("at-" + os.environ["SLURMD_NODENAME"]).touch()
    end = time.monotonic() + 240
    while len(list(Path().glob("at-*"))) < 2:
        if time.monotonic() > end:
            sys.exit("error: there is no job on another node")
        time.sleep(0.1)
if os.environ.get("SLOW", "nothing") in " ".join([command, *words]) and not Path("was-slow").exists():
    Path("was-slow").touch()
    def leave(number, _):
        mark(f"{command} was told to leave by signal {number}")
        sys.exit(75)
    signal.signal(signal.SIGTERM, leave)
    time.sleep(300)
if os.environ.get("FAIL", "nothing") in " ".join([command, *words]):
    sys.exit(f"error: {command} was told to fail")
for option in ("settings", "stage", "camera"):
    json.loads(options.get(option, "{}"))
if command == "prefetch":
    if "weights" in options:
        folder = "weights/" + options["weights"]
        write(folder if Path(folder).exists() else "weights/checkpoints/" + options["weights"], "receipt.json")
    else:
        write(Path(options["out"]).parent, Path(options["out"]).name)
elif command == "canary":
    need(options["clip"] + "/receipt.json")
    write(options["clip"], "open_clip_model.canary.json")
elif command == "from-mesh":
    need(options["mesh"])
    write(options["out"], "rgba.png", "depth.png", "normal.png", "mesh.ply", "object.json")
    write(options["out"] + "/truth", "cameras.json")
elif command == "prepare":
    need(options["image"], options["depth-weights"])
    write(options["out"], "example.json", "rgba.png")
elif command == "invert":
    need(options["example"] + "/example.json", options["weights"])
    write(options["out"], "learned_embeds.safetensors")
elif command == "reconstruct":
    stage = json.loads(options["stage"])
    need(options["example"] + "/example.json")
    assert ("init" in options) == (stage["init"] is not None)
    if "init" in options:
        need(options["init"] + "/checkpoint.safetensors")
    if "token" in options:
        need(options["token"] + "/learned_embeds.safetensors")
    need(*[folder + "/example.json" for name, folder in repeated if name == "reference"])
    given = dict(value.split("=", 1) for name, value in repeated if name == "weights")
    assert set(given) == {prior["weights"] for prior in stage["priors"].values()}
    need(*given.values())
    write(options["out"], "checkpoint.safetensors", "stage.json", "losses.csv")
elif command == "external":
    makes = json.loads(options["settings"])["makes"]
    need(options["example"] + "/example.json")
    write(options["out"], "external.json", *[makes] if makes != "renders" else [])
    if makes == "renders":
        write(options["out"] + "/reference", "000.png")
elif command == "view":
    need(options["checkpoint"] + "/checkpoint.safetensors", options["example"] + "/example.json")
    write(options["out"], "cameras.json")
    write(options["mesh"], "mesh.obj")
elif command == "adopt":
    need(options["renders"] + "/reference/000.png", options["example"] + "/example.json")
    write(options["out"], "cameras.json")
    write(options["mesh"], "none.json")
elif command == "adopt-mesh":
    need(options["mesh"], options["example"] + "/example.json", options.get("truth-mesh", options["mesh"]))
    write(options["out"], "cameras.json")
    write(options["mesh-out"], "mesh.obj")
elif command == "score":
    need(options["views"] + "/cameras.json", options["reference"] + "/example.json", options["truth"], options["truth-mesh"])
    need(*[options["record"]] if options["record"] != "none" else [])
    need(*[value for name, value in repeated if name in ("clip", "perceptual")])
    Path(options["out"]).write_text("scores")
elif command == "table":
    cells = json.loads(Path(options["plan"]).read_text())["cells"]
    lines = ["ok" if Path(cell["path"], "scores.json").exists()
             else json.loads(Path(cell["path"], "status.json").read_text())["reason"]
             if Path(cell["path"], "status.json").exists() else "missing" for cell in cells]
    for suffix in (".csv", "-cells.csv", "-differences.csv", "-pairs.csv", "-ranks.csv",
                   "-flags.csv", "-cards.json", ".md", ".tex", ".html"):
        Path(options["out"] + suffix).parent.mkdir(exist_ok=True)
        Path(options["out"] + suffix).write_text("\\n".join(
            "/".join(str(cell[key]) for key in ("example", "method", "seed", "stage")) + f": {cell['label']}: {line}"
            for cell, line in zip(cells, lines)) + "\\n")
elif command == "report":
    cells = json.loads(Path(options["plan"]).read_text())["cells"]
    states = [Path(cell["path"], "status.json") for cell in cells]
    logs = [json.loads(state.read_text())["log"] for state in states if state.exists()]
    need(*logs)
    Path(options["out"]).write_text("\\n".join(["page", *logs]) + "\\n")
elif command == "figure":
    need(*[cell["path"] + "/views/cameras.json" for cell in json.loads(Path(options["plan"]).read_text())["cells"]])
    Path(options["out"]).write_text("figure")
else:
    sys.exit(f"error: no such command: {command}")
"""


METHODS = ["copy-reference", "reconstruction-only", "2d-prior-only", "3d-prior-only", "wrong-reference", "both"]


def build(root: Path) -> Path:
    """The tree, with the repository's own rules and settings, but for the run: all objects here, METHODS, one seed."""
    project_folder(root, copied=("Snakefile", "rules", "config", "profiles"))
    config = yaml.safe_load((root / "config" / "config.yaml").read_text())
    config["run"] = {"datasets": ["demo"], "examples": "all", "methods": METHODS, "seeds": [0], "tables": ["demo"]}
    (root / "config" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (root / "magic123").mkdir()
    (root / "magic123" / "__init__.py").touch()
    (root / "magic123" / "__main__.py").write_text(COMMANDS)
    project_folder(root, copied=[f"magic123/{room}" for room in ROOMS])
    rows = []
    for name in OBJECTS:
        (root / "datasets" / "demo" / name / "truth").mkdir(parents=True)
        for file in ("rgba.png", "truth/mesh.ply"):
            (root / "datasets" / "demo" / name / file).touch()
        rows.append(f"{name},a red {name},{name},demo/{name}/rgba.png,90,demo/{name}/truth,demo/{name}/truth/mesh.ply")
    write_lines(root / "datasets" / "demo.csv", "name,prompt,init_word,image,polar,truth,truth_mesh", *rows)
    for entry in yaml.safe_load((root / "config" / "weights.yaml").read_text()).values():
        for file in entry.get("files", []):
            path = root / entry["path"] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def write_lines(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


# Importing Snakemake and what the Snakefile imports takes far longer than planning a small run: both are imported once, in a
# process that forks for each run.
SERVER = """
import json, os, sys
from functools import partial
from pathlib import Path
import docutils.core, markdown_it, numpy, requests, rich.logging, rich.markdown, smart_open  # which a run imports late
import argparse_dataclass, platformdirs, statistics
import snakemake.cli, snakemake.report.html_reporter, snakemake.storage, snakemake_logger_plugin_rich.handler
import magic123.run.jobs, magic123.run.accounting, magic123.run.estimate, magic123.run.progress, magic123.weights.prefetch
from snakemake.common import get_function_params
from snakemake.workflow import Workflow

def label(job):
    keys = ("example", "method", "stage", "table")
    return " ".join([job.rule.name, "/".join(job.wildcards_dict[key] for key in keys if key in job.wildcards_dict)]).strip()

def compared(workflow):  # in place of --dag: what Snakemake compares of each job, and what the rules' functions ask for
    workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
    workflow._build_dag()
    kept, jobs = workflow.persistence, {}
    for job in workflow.dag.jobs:
        before = sorted(label(other) for other in workflow.dag.dependencies[job])
        jobs[label(job)] = {"compared": [kept._params(job), kept._input(job), kept._code(job.rule)], "before": before}
    asked = {
        f"{rule.name} {key}": sorted(get_function_params(value))
        for rule in workflow.rules for key, value in rule.params._allitems() if callable(value)
    }
    print("COMPARED" + json.dumps({"jobs": jobs, "asked": asked}))

REPOSITORY = Path.cwd()

def use_the_trees_code():  # where it differs from the repository's, which is imported already
    if any(file.stat().st_mtime_ns != (REPOSITORY / file).stat().st_mtime_ns for file in Path("magic123").glob("*/*.py")):
        for name in [name for name in sys.modules if name.split(".")[0] == "magic123"]:
            del sys.modules[name]

def run(folder, do, environment, place):
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            for number, name in enumerate((os.devnull, "stdout" + place, "stderr" + place)):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            Workflow.printdag = compared
            use_the_trees_code()
            do()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else print(end.code, file=sys.stderr) or 1
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for line in sys.stdin:
    request = json.loads(line)
    at = request["folder"], request["words"], request["environment"]
    if "each" in request:  # several runs in the same tree
        os.chdir(at[0])
        parser, arguments = snakemake.cli.parse_args(at[1])
        def one(file):
            arguments.configfile = [Path(file)]
            sys.exit(not snakemake.cli.args_to_api(arguments, parser))
        codes = [run(at[0], partial(one, file), at[2], str(n)) for n, file in enumerate(request["each"])]
        print(json.dumps(codes), flush=True)
    else:
        print(run(at[0], partial(snakemake.cli.main, at[1]), at[2], ""), flush=True)
"""


@dataclass(frozen=True)
class Run:
    """A finished call of Snakemake."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


def _server() -> subprocess.Popen:
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY)
    atexit.register(server.kill)
    return server


_shared_server = cache(_server)


def snakemake(root: Path, *words: str, **environment: str) -> Run:
    """Run Snakemake in the tree. PATH is bare: the rules must find their own Python."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(root), **environment}
    print(
        json.dumps({"folder": str(root), "words": words, "environment": environment}), file=_shared_server().stdin, flush=True
    )
    code = int(_shared_server().stdout.readline())
    return Run(code, (root / "stdout").read_text(), (root / "stderr").read_text())


JOB = re.compile(r"^(?:local)?rule (\w+):$\n((?:    .*\n)*)", re.MULTILINE)


def planned_jobs(root: Path, *words: str) -> set[str]:
    """What a dry run would do, as `rule example/method/stage`, with what the rule has of these."""
    run = snakemake(root, "-n", *words)
    assert run.returncode == 0, run.text
    found = set()
    for rule, body in JOB.findall(run.stdout):
        wildcards = dict(re.findall(r"(\w+)=([^,\s]+)", next((line for line in body.splitlines() if "wildcards:" in line), "")))
        at = "/".join(wildcards[key] for key in ("example", "method", "stage", "table") if key in wildcards)
        found.add(f"{rule} {at}".strip())
    return found


def compared(root: Path, *words: str) -> dict:
    """What Snakemake compares of each job, named as by `planned_jobs`, and what each function of a rule's parameters asks for.

    Returns:
        "jobs": job -> {"compared": parameters, inputs and code; "before": the jobs that it needs};
        "asked": "RULE PARAMETER" -> names of the function's arguments.
    """
    run = snakemake(root, "--dag", "dot", *words)
    assert run.returncode == 0, run.text
    return _compared(run)


def _compared(run: Run) -> dict:
    return json.loads(run.stdout[run.stdout.index("COMPARED") + len("COMPARED") :])


def snakemake_each(root: Path, words: list[str], files: list[str]) -> list[Run]:
    """Run Snakemake in the tree with each of several configuration files."""
    server = _server()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(root)}
    request = {"folder": str(root), "words": words, "environment": environment, "each": files}
    print(json.dumps(request), file=server.stdin, flush=True)
    codes = json.loads(server.stdout.readline())
    server.communicate()
    return [Run(code, (root / f"stdout{n}").read_text(), (root / f"stderr{n}").read_text()) for n, code in enumerate(codes)]


def compare_each(root: Path, targets: list[str], files: list[str]) -> list[dict[str, dict] | str]:
    """For each of several configuration files: the jobs of `compared`, or what was said where the run is refused."""
    runs = snakemake_each(root, ["--dag", "dot", *targets], files)
    return [_compared(run)["jobs"] if run.returncode == 0 else run.text for run in runs]
