"""The map of the house: which room, folder and file may import which, read from the imports."""

import ast
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = "threestudio_jointdreamer"
FOLDERS = {  # of each top-level name that is ours
    EXTENSION: ROOT / "custom" / "threestudio-jointdreamer",
    "jointdreamer": ROOT / "jointdreamer",
    "threestudio": ROOT / "jointdreamer" / "standalone" / "threestudio",
    "tinycudann": ROOT / "jointdreamer" / "standalone" / "tinycudann",
    "benchmarks": ROOT / "benchmarks",
    "helpers": ROOT / "tests" / "helpers",
    "tests": ROOT / "tests",
}
ROOMS = {  # what each room may import of ours, itself aside
    EXTENSION: {"threestudio"},  # the host, whichever it is
    "threestudio": {"tinycudann"},
    "tinycudann": set(),
    "jointdreamer": {EXTENSION, "threestudio", "tinycudann"},
    "benchmarks": {"jointdreamer", EXTENSION, "threestudio", "tinycudann"},
    "helpers": {"jointdreamer", "benchmarks", EXTENSION, "threestudio", "tinycudann"},
    "tests": {"jointdreamer", "benchmarks", "helpers", EXTENSION, "threestudio", "tinycudann"},
}
# files at the extension's top that import nothing of its folders
EVERYWHERE = {"config_values", "files", "finite", "state_dicts", "step_schedule"}
ARROWS = {  # inside the extension, to what is further down
    "systems": {"guidance", "energies", "priors", "weights", "prompts", "data"},
    "guidance": {"energies", "priors", "weights"},
    "energies": {"priors", "weights"},
    "priors": {"weights"},
    "weights": set(),
    "prompts": {"priors", "weights"},
    "data": set(),
    "exporters": set(),
    "gaussians": {"exporters"},
    "meshes": {"weights"},
    **dict.fromkeys(EVERYWHERE, set()),
}
REGISTRY = "threestudio"  # its __init__.py has the registry, and loads all that registers there
PRIVATE = {  # of libraries, where there is no public twin: the one file that may import it
    "nerfacc.cuda._backend": "jointdreamer/standalone/threestudio/models/renderers/marching.py",
}


@cache
def module_files() -> dict[str, Path]:
    """Every module of ours by its dotted name, in the room that is nearest to it."""
    found = {}
    for name, folder in sorted(FOLDERS.items(), key=lambda item: len(item[1].parts)):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[path] = ".".join([name, *parts]).removesuffix(".__init__")
    return {name: path for path, name in found.items()}


def imports(path: Path, module: str) -> Iterator[tuple[str, ast.stmt]]:
    """Dotted names that a file imports, at its top or later: a.b for `from a import b`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = [*(above if node.level else []), *([node.module] if node.module else [])]
            yield from ((".".join([*base, alias.name]), node) for alias in node.names)


@cache
def arrows() -> dict[str, set[str]]:
    """The modules of ours that each module of ours imports."""
    files = module_files()
    found = {}
    for module, path in files.items():
        names = {name for name, _ in imports(path, module)}
        modules = {name if name in files else name.rpartition(".")[0] for name in names}
        found[module] = modules & set(files) - {module}
    return found


def place(module: str) -> str:
    """For people: jointdreamer/host/errors.py."""
    return module_files()[module].relative_to(ROOT).as_posix()


def room(module: str) -> str:
    return module.partition(".")[0]


def said(found: list[tuple[str, str]]) -> str:
    return "new arrows:\n" + "\n".join(f"  {place(a)} -> {place(b)}" for a, b in sorted(found))


def test_rooms_import_only_what_is_below_them():
    found = [
        (module, other)
        for module, others in arrows().items()
        for other in others
        if room(other) != room(module) and room(other) not in ROOMS[room(module)]
    ]
    assert not found, said(found)


def test_inside_the_extension_arrows_point_down():
    found = []
    for module, others in arrows().items():
        folder = module.split(".")[1] if module.startswith(f"{EXTENSION}.") else None
        for other in others if folder else ():
            target = (other.split(".") + [""])[1] if room(other) == EXTENSION else folder
            if target not in {folder, *ARROWS[folder], *EVERYWHERE}:
                found.append((module, other))
    assert not found, said(found)


@pytest.mark.parametrize(
    "rooms, unit",
    [
        *itertools.product((EXTENSION, "jointdreamer", "benchmarks"), ("files", "folders")),
        ("threestudio tinycudann", "files"),  # its folders are threestudio's own
        ("tests helpers", "files"),
    ],
)
def test_no_circle(rooms, unit):
    name = _folder if unit == "folders" else place
    graph: dict[str, set[str]] = {}
    for module, others in arrows().items():
        if room(module) in rooms.split() and module != REGISTRY:
            there = {name(other) for other in others if room(other) in rooms.split()}
            graph.setdefault(name(module), set()).update(there - {name(module)})
    circle = _circle(graph)
    assert not circle, " -> ".join(circle)


def _folder(module: str) -> str:
    """The folder of a file; a file at a room's top, which may use the folders below, is its own."""
    path = module_files()[module].relative_to(FOLDERS[room(module)])
    top = FOLDERS[room(module)].relative_to(ROOT)
    return (top / (path.parent if len(path.parts) > 1 else path)).as_posix()


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, the first of them again at its end; empty if there is none."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := walk(other, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_nothing_private_is_imported_from_a_library():
    found = []
    for module, path in module_files().items():
        for name, node in imports(path, module):
            outside = name.split(".")[0] not in FOLDERS and not getattr(node, "level", 0)
            private = any(part[0] == "_" and part[-1] != "_" for part in name.split("."))
            allowed = any(name.startswith(n) and place(module) == PRIVATE[n] for n in PRIVATE)
            if outside and private and not allowed:
                found.append(f"{place(module)}:{node.lineno} {name}")
    assert not found, "\n".join(found)


def test_converters_of_single_files_are_imported_late():
    found = []
    for module, path in module_files().items():
        top = ast.parse(path.read_text(encoding="utf-8")).body
        found += [
            place(module)
            for node in top
            if isinstance(node, ast.ImportFrom) and "single_file" in (node.module or "")
        ]
    assert not found, "diffusers moves these functions between versions: import them where needed"
