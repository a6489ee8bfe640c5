"""The documents: links lead somewhere, commands are understood, and nightly those of the main pages are typed."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from test_video import make_clip

from styles.deformable_controls import ALPHA, COLOR
from styles.drawn import CONTROLS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Commands whose first word chooses what the others mean.
STAGED = ("pretrain", "train_blend", "checkpoints", "styles", "op", "benchmarks.bench")
STYLE_OPTIONS = {name for control in (ALPHA, COLOR, *CONTROLS) for name in (control.option, control.option.replace("_", "-"))}
# Pages whose commands are typed nightly, and words of commands that want what is not here.
TYPED = ("README.md", "method.md", "controls.md")
ELSEWHERE = ("app.py", "official", "FILE", "--jobs")


@dataclass(frozen=True)
class Command:
    """A command of a page: the module that ``python`` runs, and its words."""

    page: str
    text: str
    module: str
    words: tuple[str, ...]


def commands_of(page: Path) -> list[Command]:
    """Return the commands of a page's blocks, in their order."""
    found, text = [], page.read_text(encoding="utf-8")
    indented = "\n".join(re.findall(r"^    (python .*)", FENCE.sub("", text), re.MULTILINE))
    for language, block in [*FENCE.findall(text), ("", indented)]:
        if language in ("python", "diff", "mermaid", "bibtex"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for text in line.partition("  #")[0].split(" && "):
                if not text.strip().startswith(("python ", "torchrun ")):
                    continue
                words = shlex.split(text)
                if words[:1] == ["torchrun"]:
                    words = ["python", *words[next(n for n, word in enumerate(words) if word.endswith(".py")):]]
                if len(words) > 1 and words[0] == "python":
                    script = words[2:] if words[1] == "-m" else [words[1].removesuffix(".py"), *words[2:]]
                    found.append(Command(page.name, text.strip(), script[0].replace("/", "."), tuple(script[1:])))
    return found


COMMANDS = [command for page in PAGES for command in commands_of(page)]


def help_of(module: str, words: tuple[str, ...], capsys) -> str:
    """Return the help of a command, of the stage and style that its words name."""
    loaded = importlib.import_module(module)
    if not hasattr(loaded, "main"):
        loaded = importlib.import_module(f"{module}.__main__")
    argv = [words[0]] if module in STAGED and words and not words[0].startswith("-") else []
    if "--style" in words:
        argv += ["--style", words[words.index("--style") + 1]]
    try:
        assert loaded.main([*argv, "--help"]) == 0
    except SystemExit as leaving:
        assert not leaving.code
    return capsys.readouterr().out


def test_the_pages_hold_commands():
    assert len(COMMANDS) > 30
    assert {"train", "inference", "generate_samples", "checkpoints"} <= {command.module for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text[:90]}")
def test_a_command_is_understood(command, capsys):
    if command.module == "docs.run_onnx":
        assert len(command.words) in (3, 4)
        return
    known = set(re.findall(r"--[\w-]+", help_of(command.module, command.words, capsys))) | STYLE_OPTIONS
    options = [word.partition("=")[0] for word in command.words if word.startswith("--") and word != "--"]
    assert [option for option in options if option not in known] == []
    for word in command.words:
        if word.startswith("data/"):
            assert (ROOT / word).exists(), f"{word}: is not here"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_are_there(page):
    named = re.findall(r"`python (-m )?([\w.]+)", page.read_text(encoding="utf-8"))
    for module, name in named:
        file = ROOT / (name.replace(".", "/") if module else name)
        assert file.is_file() or file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), f"{name}: is not here"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_front_page_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200 and len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_can_be_read(page):
    assert [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|") and len(line) > 200] == []


def test_the_package_has_every_script():
    listed = re.search(r"py-modules = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert set(re.findall(r'"(\w+)"', listed)) == {path.stem for path in ROOT.glob("*.py")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder in which the commands find everything by the names that the pages use."""
    root = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").is_file() or path.name == "docs":
            (root / path.name).symlink_to(path)
    pair = [ROOT / "data" / "style_images_aligned" / f"{name}_sample.png" for name in ("source", "target")]
    for name, path in (("REAL", pair[0]), ("REAL1", pair[0]), ("REAL2", pair[0]), ("FACE", pair[0]), ("DRAWING", pair[1]),
                       ("DRAWING1", pair[1]), ("DRAWING2", pair[1])):
        shutil.copy(path, root / f"{name}.png")
    with Image.open(ROOT / "data" / "test_inputs" / "001.png") as photo:
        photo.convert("RGB").save(root / "PHOTO.jpg")
    make_clip(root / "clip.mp4", frames=6, size=(320, 320), face=True)
    (root / "weights").mkdir()
    return root


@pytest.mark.nightly
def test_the_main_pages_work_as_they_are_typed(clone):
    environment = {**os.environ, "CHECKPOINTS_DIR": str(clone / "weights"), "PYTHONPATH": str(clone)}
    typed = [command for command in COMMANDS if command.page in TYPED and not any(word in command.text for word in ELSEWHERE)]
    typed.sort(key=lambda command: command.module != "train")  # styles are there before they are used
    wrong = []
    for command in typed:
        # A picture of the documents is not drawn anew.
        words = [word.replace("docs/stages.jpg", "outputs/stages.jpg") for word in shlex.split(command.text)[1:]]
        done = subprocess.run([sys.executable, *words], cwd=clone, env=environment, capture_output=True, text=True, check=False)
        wrong += [f"{command.page}: {command.text}: {done.stderr[-300:]}"] if done.returncode else []
    assert wrong == []


@pytest.mark.nightly
def test_the_front_page_works_from_python(clone):
    blocks = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (code,) = [block for language, block in blocks if language == "python"]
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=False,
                          env={**os.environ, "CHECKPOINTS_DIR": str(clone / "weights"), "PYTHONPATH": str(clone)})
    assert done.returncode == 0, done.stderr
    assert len(list((clone / "outputs").glob("face_*.png"))) == 4
