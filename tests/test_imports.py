"""Packages import one way: each only those that stand before it in ``benchmarks.architecture.ORDER``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.architecture import ORDER, PAGE, WAY, exceptions, graph, imports_of, package_of, way, with_block

# What still goes the other way. This list only ever gets shorter: ``python -m benchmarks.architecture --exceptions`` prints
# what is left of it.
EXCEPTIONS = {
    ("checkpoints.manifest", "styles.protocol"),
    ("checkpoints.manifest", "styles.registry"),
    ("faces.dlib_search", "pipeline.cli"),
    ("faces.find", "pipeline.cli"),
    ("faces.landmark_files", "pipeline.cli"),
    ("faces.tracking", "pipeline.smoothing"),
    ("styles.dualstyle_encoding", "training.checks"),
    ("styles.dualstyle_encoding", "training.exemplar_tools"),
    ("styles.dualstyle_encoding", "training.exemplars"),
    ("styles.modify", "training.checks"),
    ("styles.modify", "training.modify"),
    ("styles.modify", "training.modify_config"),
    ("styles.modify", "training.modify_judges"),
    ("styles.picture", "pipeline.cli"),
    ("training.style_run", "pipeline.sampling"),
    ("training.style_run", "pipeline"),
}


def test_nothing_new_goes_the_other_way():
    assert sorted(set(exceptions()) - EXCEPTIONS) == []


def test_the_list_holds_no_more_than_there_is():
    assert sorted(EXCEPTIONS - set(exceptions())) == [], "take these out of EXCEPTIONS: they are mended"


def test_the_page_shows_the_graph_as_it_is():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_block(page, "graph", graph()), "run python -m benchmarks.architecture"


def test_a_photo_passes_at_most_eight_functions():
    assert len(WAY) <= 8 and way().count("\n") == len(WAY) + 1


def test_imports_are_found_in_functions_too(tmp_path):
    file = tmp_path / "one.py"
    late = "def late():\n    from web.studio import Studio\n    from . import other\n"
    file.write_text(f"import os\nimport data.images as images\n\n{late}")
    assert imports_of(file) == {"data.images", "web.studio"}
    assert ORDER.index(package_of("web.studio")) > ORDER.index(package_of("data.images"))


def test_a_tree_with_a_wrong_import_is_told(tmp_path):
    for package, text in (("op", "import web.page"), ("models", "import op.fused"), ("web", "import models.face")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "one.py").write_text(text)
    assert exceptions(tmp_path) == [("op.one", "web.page")]
    drawn = graph(tmp_path)
    assert "    models --> op" in drawn and "    op -.-> web" in drawn and "web --> op" not in drawn


def test_commands_stand_above_all_packages(tmp_path):
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / "__main__.py").write_text("import web.page")
    (tmp_path / "op" / "tool.py").write_text("import web.page\n\nif __name__ == \"__main__\":\n    web.page.main()\n")
    assert exceptions(tmp_path) == []


def test_a_page_without_marks_is_told():
    with pytest.raises(ValueError, match="<!-- graph -->"):
        with_block("# A page", "graph", "x")


def test_a_style_loads_without_what_takes_seconds_to_import():
    """timm and torchvision bring torch's compiler along, and so do random numbers on the meta device; only training and
    comparing pictures need them."""
    command = "import sys; from pipeline.api import Stylizer as S; S('ink'); print({'timm', 'torch._dynamo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.strip() == "set()", done.stderr
