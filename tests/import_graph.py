"""The rooms of the code and the imports between them: python tests/import_graph.py

A room is a folder of `magic123/` or `eval/` (or a module that lies directly in one of them). A room may import the rooms that
stand above it in ROOMS, and itself; `eval` may import `magic123.records` and nothing else of `magic123`.
"""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# From the ground up.
ROOMS = [
    "magic123.records",
    "eval.pictures",
    "eval.metrics",
    "eval.tables",
    "eval.page",
    "eval.commands",
    "magic123.settings",
    "magic123.device",
    "magic123.run",
    "magic123.geometry",
    "magic123.example",
    "magic123.fields",
    "magic123.render",
    "magic123.priors",
    "magic123.scenes",
    "magic123.optimise",
    "magic123.weights",
    "magic123.measure",
    "magic123.miniatures",
    "magic123.commands",
]
ENTRY_POINTS = {"__init__", "__main__"}  # of each package: they may import anything


def imported(tree: ast.AST) -> set[str]:
    """Return the modules, and the names in them, that a piece of code imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"line {node.lineno}: relative imports are not used here")
            names |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return names


def room_of(dotted: str) -> str:
    """Return the room of a module's dotted name."""
    return ".".join(dotted.split(".")[:2])


def modules() -> dict[str, Path]:
    """Return every module of the two packages: dotted name -> file."""
    files = [file for package in ("magic123", "eval") for file in sorted((REPOSITORY / package).rglob("*.py"))]
    return {".".join(file.relative_to(REPOSITORY).with_suffix("").parts): file for file in files}


def import_graph() -> dict[str, dict[str, set[str]]]:
    """Return room -> imported room -> the modules that import it; entry points left out."""
    graph: dict[str, dict[str, set[str]]] = {}
    for module, file in modules().items():
        room = room_of(module)
        if room.split(".")[-1] in ENTRY_POINTS:
            continue
        arrows = graph.setdefault(room, {})
        for name in imported(ast.parse(file.read_text(encoding="utf-8"))):
            other = room_of(name)
            if name.split(".")[0] in ("magic123", "eval") and other != room and "." in other:
                arrows.setdefault(other, set()).add(module)
    return graph


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that can reach each other (strongly connected, more than one node)."""
    reach = {node: set(below) for node, below in edges.items()}
    for middle in edges:
        for node in edges:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    groups = {tuple(sorted(m for m in edges if m in reach[n] and n in reach[m])) for n in edges if n in reach[n]}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def module_edges() -> dict[str, set[str]]:
    """Return module -> the modules of these packages that it imports."""
    known = modules()
    return {
        module: {name for name in imported(ast.parse(file.read_text(encoding="utf-8"))) if name in known and name != module}
        for module, file in known.items()
    }


def main() -> None:
    graph = import_graph()
    place = {room: number for number, room in enumerate(ROOMS)}
    arrows = upward = 0
    for room in [*(r for r in ROOMS if r in graph), *sorted(graph.keys() - place.keys())]:
        below = sorted(graph[room], key=lambda other: place.get(other, -1))
        arrows += len(below)
        print(f"{room:<22} -> {', '.join(below) or '-'}")
        for other in below:
            if place.get(other, len(ROOMS)) >= place.get(room, -1):
                upward += 1
                print(f"{'':<25} upward: {other}, from {', '.join(sorted(graph[room][other]))}")
    loops = circles(module_edges())
    print(f"\n{len(graph)} rooms, {arrows} arrows, {upward} of them upward, {len(loops)} circles of modules")
    for loop in loops:
        print("  circle: " + ", ".join(loop))


if __name__ == "__main__":
    main()
