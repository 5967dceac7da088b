"""The building's floors: imports point down, rooms of one floor don't see each other, and what is heavy comes in late."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MODULES = sorted((REPOSITORY / "magic123").rglob("*.py"))

# From the ground up. A room is a package or some modules that belong together; whoever adds a module says where it lives.
FLOORS = [
    {"words": {"errors", "config", "camera", "device"}},
    {
        "run": {
            "settings_file",
            "registry",
            "manifest",
            "suite_settings",
            "suite",
            "plan",
            "method_list",
            "output_folder",
            "status",
            "accounting",
            "lease",
        },
        "loop": {"loss_history", "file_hash"},
    },
    {"fetching": {"download", "prefetch"}, "estimate": {"estimate"}, "resume": {"resume"}},
    {
        "example": {"example"},
        "fields": {"fields"},
        "geometry": {"geometry"},
        "pictures": {"alpha", "picture_file", "framing", "depth", "segmentation", "quality", "quality_picture", "showcase"},
    },
    {"render": {"render"}, "machine": {"machine"}},
    {"losses": {"losses"}, "priors": {"priors"}},
    {"scenes": {"scenes"}, "conversion": {"conversion"}},
    {"checkpoint": {"checkpoint"}, "optimise": {"optimise"}},
    {"benchmark": {"benchmark", "inversion_benchmark"}},
    {"commands": {"commands"}, "miniatures": {"miniatures"}},
    {"door": {"__main__", "__init__"}},
]
ROOMS = {part: (floor, room) for floor, rooms in enumerate(FLOORS) for room, parts in rooms.items() for part in parts}

# imported inside the function that needs them: they take seconds, and a command may not need them
HEAVY = {
    "diffusers",
    "transformers",
    "torchvision",
    "torchmetrics",
    "open_clip",
    "lpips",
    "trimesh",
    "xatlas",
    "rembg",
    "skimage",
}
# modules that define a class of such a library, and are therefore as heavy themselves
LATE = {"magic123.priors.cc_projection"}


def imported(tree: ast.AST) -> set[str]:
    """The modules that a piece of code imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def parts(file: Path) -> set[str]:
    """The parts of magic123 that a file imports: `from magic123 import camera` and `from magic123.camera import x` alike."""
    names = {name.split(".")[1] for name in imported(ast.parse(file.read_text())) if name.startswith("magic123.")}
    return {
        name
        for name in names
        if (REPOSITORY / "magic123" / name).is_dir() or (REPOSITORY / "magic123" / f"{name}.py").is_file()
    }


def at_import(tree: ast.Module) -> set[str]:
    """What is imported when the module is: not inside functions, and not for type checkers alone."""
    found, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imported(ast.Module([node], []))
            continue
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not late and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            waiting += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_imports_point_down(file: Path) -> None:
    part = file.relative_to(REPOSITORY / "magic123").with_suffix("").parts[0]
    assert part in ROOMS, f"{part} has no floor yet: put it into FLOORS"
    floor, room = ROOMS[part]
    for other in sorted(parts(file) - {part}):
        assert other in ROOMS, f"{other} has no floor yet: put it into FLOORS"
        below, there = ROOMS[other]
        assert below < floor or there == room, f"{part} ({room}, floor {floor}) imports {other} ({there}, floor {below})"


def test_check_sees_imports(tmp_path: Path) -> None:
    """The check above can fail: it sees all ways of importing."""
    file = tmp_path / "module.py"
    file.write_text(
        "import magic123.scenes.nerf\nfrom magic123 import losses\ndef f():\n    from magic123.priors.sds import Prior\n"
    )
    assert parts(file) == {"scenes", "losses", "priors"}
    tree = ast.parse(
        "import a\nif X:\n    import b\ndef f():\n    import c\nif TYPE_CHECKING:\n    import d\nclass E:\n    import e\n"
    )
    assert at_import(tree) == {"a", "b", "e"}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "eval").rglob("*.py")), ids=lambda file: file.name)
def test_evaluation_sees_only_pictures(file: Path) -> None:
    assert not {name for name in imported(ast.parse(file.read_text())) if name.split(".")[0] == "magic123"}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_product_does_not_see_its_evaluation(file: Path) -> None:
    trains_a_metric = file == REPOSITORY / "magic123" / "miniatures" / "perceptual.py"  # in the shape that eval gave it
    assert trains_a_metric or not {name for name in imported(ast.parse(file.read_text())) if name.split(".")[0] == "eval"}


def test_workflow_sees_only_settings() -> None:
    lines = [
        line
        for file in ("Snakefile", *(REPOSITORY / "rules").glob("*.smk"))
        for line in (REPOSITORY / file).read_text().splitlines()
    ]
    imports = "\n".join(line for line in lines if line.startswith(("import ", "from ")))
    allowed = {
        "errors",
        "config",
        "settings_file",
        "registry",
        "manifest",
        "suite",
        "plan",
        "prefetch",
        "estimate",
        "accounting",
    }
    names = {name for name in imported(ast.parse(imports)) if name.startswith("magic123")}
    assert names and {name.split(".")[1] for name in names} <= allowed


@pytest.mark.parametrize(
    "file", [*MODULES, *sorted((REPOSITORY / "eval").rglob("*.py"))], ids=lambda file: str(file.relative_to(REPOSITORY))
)
def test_heavy_libraries_come_in_late(file: Path) -> None:
    names = at_import(ast.parse(file.read_text()))
    heavy = names & LATE
    if ".".join(file.relative_to(REPOSITORY).with_suffix("").parts) not in LATE:
        heavy |= {name.split(".")[0] for name in names} & HEAVY
    assert not heavy, f"imported at the top of the module: {', '.join(sorted(heavy))}"
