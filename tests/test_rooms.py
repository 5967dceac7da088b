"""Imports between rooms point down, no modules import each other in a circle, and heavy libraries are imported late."""

import ast
import subprocess
import sys

from import_graph import REPOSITORY, ROOMS, circles, import_graph, imported, module_edges, modules

# Imported inside the function that needs them: they take seconds, and a command may not need them.
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
# Modules that define a class of such a library, and are therefore as heavy themselves.
LATE = {"magic123.priors.cc_projection"}
TRAINS_A_METRIC = "magic123.miniatures.perceptual"  # the one module that sees eval: it trains a network in the shape eval reads


def at_import(tree: ast.Module) -> set[str]:
    """What is imported when the module is: not inside functions, and not for type checkers alone."""
    names, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= imported(ast.Module([node], []))
            continue
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not late and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            waiting += ast.iter_child_nodes(node)
    return names


def test_imports_point_down():
    """Every room is listed, and imports only rooms above it in the list."""
    graph = import_graph()
    assert set(ROOMS) == set(graph), "a room is missing from ROOMS in tests/import_graph.py, or is no longer there"
    place = {room: number for number, room in enumerate(ROOMS)}
    wrong = [
        f"{module} imports {other}"
        for room, arrows in graph.items()
        for other, importers in arrows.items()
        for module in importers
        if place[other] >= place[room] or ("eval" in (room.split(".")[0], other.split(".")[0]) and not allowed(module, other))
    ]
    assert not wrong
    assert not circles(module_edges())


def allowed(module: str, room: str) -> bool:
    """Whether an import is allowed that has an evaluation module on one side."""
    if module.startswith("eval."):
        return room == "magic123.records" or room.startswith("eval.")
    return module == TRAINS_A_METRIC


def test_the_workflow_imports_no_torch():
    """Building the graph of jobs must stay fast: no module that the rules import brings torch or pandas in."""
    lines = [
        line
        for file in (REPOSITORY / "Snakefile", *sorted((REPOSITORY / "rules").glob("*.smk")))
        for line in file.read_text().splitlines()
        if line.startswith(("import magic123", "from magic123"))
    ]
    assert lines
    code = "\n".join([*lines, "import sys", "print([m for m in ('torch', 'pandas', 'diffusers') if m in sys.modules])"])
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_heavy_libraries_come_in_late():
    heavy = []
    for module, file in modules().items():
        names = at_import(ast.parse(file.read_text()))
        found = names & LATE
        if module not in LATE:
            found |= {name.split(".")[0] for name in names} & HEAVY
        heavy += [f"{module} imports {name} at its top" for name in sorted(found)]
    assert not heavy


def test_the_checks_can_fail():
    """The checks above see all ways of importing."""
    tree = ast.parse(
        "import a\nif X:\n    import b\ndef f():\n    import c\nif TYPE_CHECKING:\n    import d\nclass E:\n    import e\n"
    )
    assert at_import(tree) == {"a", "b", "e"}
    assert imported(ast.parse("from a import b\ndef f():\n    from c.d import e")) == {"a", "a.b", "c.d", "c.d.e"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_test_imports_a_test():
    """What several test modules use is in a module of its own: a test module that is imported is a second copy of itself."""
    wrong = [
        f"{file.name} imports {name}"
        for file in sorted((REPOSITORY / "tests").rglob("*.py"))
        for name in imported(ast.parse(file.read_text(encoding="utf-8")))
        if name.startswith(("test_", "tests.")) or name == "conftest"
    ]
    assert not wrong
