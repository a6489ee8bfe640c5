"""Which package imports which, and the way of a photo through them, written into docs/architecture.md.

``--exceptions`` prints the imports against the order, as ``tests/test_imports.py`` lists them.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from checkpoints import atomic_write
from pipeline import cli

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
# A package may import those that stand before it.
ORDER = ("op", "models", "losses", "checkpoints", "data", "faces", "drawing", "styles", "training", "pipeline", "projection",
         "web", "benchmarks")
# The way of a photo: file and function, and what is done there.
WAY = (
    ("inference.py", "photo_rows", "reads the options, loads the style, goes through the photos"),
    ("pipeline/photos.py", "drawn_picture", "reads one photo, writes one picture"),
    ("pipeline/stylize.py", "crops", "asks where the faces are and cuts out aligned frames of 512 px"),
    ("faces/find.py", "find", "boxes, 468 points and 68 landmarks of every sure face"),
    ("pipeline/stylize.py", "invert", "rows of latents and features by the encoders, for the transformers' sake"),
    ("faces/parts.py", "face_parts", "skin, hair, background and the rest of the whole photo"),
    ("styles/drawn.py", "draw_frame", "values of the controls become strengths of the stages"),
    ("drawing/compose.py", "draw_picture", "warp, tone and strokes of the whole photo"),
)
MARKS = {"graph": ("<!-- graph -->", "<!-- end of graph -->"), "way": ("<!-- way -->", "<!-- end of way -->")}


def imports_of(path: Path) -> set[str]:
    """Return the modules of this project that a file imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        found |= {name for name in names if name.partition(".")[0] in ORDER}
    return found


def module_imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Return for every module of the packages, but those that are commands, what it imports of them."""
    found = {}
    for package in ORDER:
        for path in sorted((root / package).rglob("*.py")):
            if is_command(path):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = imports_of(path)
    return found


def is_command(path: Path) -> bool:
    """Return whether a file is run as ``python -m``: such files stand above all packages, as scripts do."""
    return path.name == "__main__.py" or '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")


def package_of(module: str) -> str:
    """Return the package that a module lies in."""
    return module.partition(".")[0]


def exceptions(root: Path = ROOT) -> list[tuple[str, str]]:
    """Return the imports (module, imported module) against ``ORDER``, sorted."""
    return sorted((module, other) for module, others in module_imports(root).items() for other in others
                  if ORDER.index(package_of(other)) > ORDER.index(package_of(module)))


def graph(root: Path = ROOT) -> str:
    """Return the graph of the packages for mermaid: imports against the order dotted, those that others imply left out."""
    edges = {package: set() for package in ORDER}
    for module, others in module_imports(root).items():
        edges[package_of(module)] |= {package_of(other) for other in others} - {package_of(module)}
    place = {package: number for number, package in enumerate(ORDER)}
    down = {package: {other for other in others if place[other] < place[package]} for package, others in edges.items()}
    below: dict[str, set[str]] = {}
    for package in ORDER:
        below[package] = set().union(down[package], *(below[other] for other in down[package]))
    lines = []
    for package in ORDER:
        direct = {other for other in down[package] if not any(other in below[third] for third in down[package])}
        lines += [f"    {package} --> {other}" for other in sorted(direct)]
        lines += [f"    {package} -.-> {other}" for other in sorted(edges[package] - down[package])]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def line_of(path: Path, function: str) -> int:
    """Return the line in which a file defines a function; raises ValueError where it does not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return node.lineno
    raise ValueError(f"{path}: defines no function {function!r}")


def way(root: Path = ROOT) -> str:
    """Return the table of ``WAY`` with its lines."""
    rows = [f"| {number} | `{file}:{line_of(root / file, function)}` | `{function}` | {text} |"
            for number, (file, function, text) in enumerate(WAY, start=1)]
    return "\n".join(["| | where | function | what |", "|---|---|---|---|", *rows])


def with_block(text: str, name: str, block: str) -> str:
    """Return a page with what lies between two marks of ``MARKS`` replaced.

    Raises:
        ValueError: if the page lacks them.
    """
    first, last = MARKS[name]
    before, found, rest = text.partition(first)
    _, ended, after = rest.partition(last)
    if not (found and ended):
        raise ValueError(f"expected {first} and {last} in the page")
    return f"{before}{first}\n{block}\n{last}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or print the exceptions."""
    parser = cli.ArgumentParser(prog="python -m benchmarks.architecture", description=__doc__)
    parser.add_argument("--exceptions", action="store_true", help="print the imports against the order, and write nothing")

    def work(args) -> int:  # noqa: ANN001
        if args.exceptions:
            for pair in exceptions():
                print(f"    {pair},".replace("'", '"'))
            return 0
        text = PAGE.read_text(encoding="utf-8")
        for name, block in (("graph", graph()), ("way", way())):
            text = with_block(text, name, block)
        with atomic_write(PAGE) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(PAGE)
        return 0

    return cli.run(work, lambda: parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
