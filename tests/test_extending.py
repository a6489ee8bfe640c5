"""What docs/extending.md tells one to add is added to a copy of the tree, and works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "extending.md"
PARTS = ("A kind of style", "A drawing stage", "A loss")
CHANGED = ("drawing", "styles", "training", "losses")
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n?```(?P<language>python|diff)\n(?P<text>.*?)```", re.DOTALL)


def part(title: str) -> str:
    """Return what stands under a heading."""
    return PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


def copied(root: Path) -> None:
    """Make a tree whose packages can be changed: code is copied, weights and all else are linked."""
    for path in ROOT.iterdir():
        if path.name in CHANGED:
            shutil.copytree(path, root / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.suffix == ".py" or (path / "__init__.py").is_file():
            (root / path.name).symlink_to(path)


def change(file: Path, text: str) -> None:
    """Replace the lines of a change that begin with - by those that begin with +; they stand once in the file."""
    old, new = ("".join(f"{line[1:]}\n" for line in text.splitlines() if line[0] == sign) for sign in "-+")
    before = file.read_text(encoding="utf-8")
    assert old and before.count(old) == 1, f"{file.name} has these lines {before.count(old)} times:\n{old}"
    file.write_text(before.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("title", PARTS)
def test_a_part_is_short_and_works(title, tmp_path):
    copied(tmp_path)
    changed, code, lines = None, None, 0
    for found in BLOCK.finditer(part(title)):
        named = re.search(r"(New file|Changes in) `([^`]+)`:", found["before"])
        changed = tmp_path / named[2] if named else changed
        if found["language"] == "diff":
            change(changed, found["text"])
            lines += sum(line.startswith("+") for line in found["text"].splitlines())
        elif named:
            changed.write_text(found["text"], encoding="utf-8")
            lines += found["text"].count("\n")
        else:
            code = found["text"]
    assert code and 0 < lines <= 60
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
