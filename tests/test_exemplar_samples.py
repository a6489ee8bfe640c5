"""Random faces in random styles of a gallery, and exemplars by number."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from PIL import Image
from test_dual_style import face, network, parts, style, weights  # noqa: F401 - fixtures

import exemplar_samples
from styles.controls import Look


def drawn(monkeypatch, style, tmp_path, *options: str) -> list[Look]:  # noqa: ANN001, F811
    """Run the command with a style and return the looks that were drawn."""
    looks, draw = [], style.draw
    monkeypatch.setattr("styles.registry.load_style", lambda *args, **settings: style)
    monkeypatch.setattr(style, "draw", lambda face, look: looks.append((face, look)) or draw(face, look))
    assert exemplar_samples.main(["--batch", "3", "--output", str(tmp_path / "out"), *options]) == 0
    monkeypatch.undo()
    return looks


def test_parts_are_fixed_or_drawn_anew(style, tmp_path, monkeypatch) -> None:  # noqa: ANN001, F811
    def faces(looks):  # noqa: ANN001, ANN202
        return [face.w_plus for face, _ in looks]

    looks = drawn(monkeypatch, style, tmp_path, "--fix_content", "--fix_color", "--seed", "5")
    assert torch.equal(faces(looks)[0], faces(looks)[2])
    assert [(look["style_seed"], look["color_seed"]) for _, look in looks] == [(5.0, 5.0), (6.0, 5.0), (7.0, 5.0)]
    codes = [style.code(look) for _, look in looks]
    assert torch.equal(codes[0][:, 7:], codes[1][:, 7:]) and not torch.equal(codes[0][:, :7], codes[1][:, :7])
    looks = drawn(monkeypatch, style, tmp_path, "--fix_structure")
    assert not torch.equal(faces(looks)[0], faces(looks)[1])
    codes = [style.code(look) for _, look in looks]
    assert torch.equal(codes[0][:, :7], codes[1][:, :7]) and not torch.equal(codes[0][:, 7:], codes[1][:, 7:])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["sheet.png", "toons_0_0000.png", "toons_0_0001.png", "toons_0_0002.png",
                     "toons_5_0000.png", "toons_5_0001.png", "toons_5_0002.png"]
    looks = drawn(monkeypatch, style, tmp_path, "--gallery")
    assert [look["exemplar"] for _, look in looks] == ["ann", "bob", "ann"]
    assert np.asarray(Image.open(tmp_path / "out" / "sheet.png")).shape[0] > 3 * 128


def test_other_kinds_are_refused(tmp_path, capsys) -> None:  # noqa: ANN001
    assert exemplar_samples.main(["--style", "any", "--output", str(tmp_path)]) == 2
    assert "only exemplar styles" in capsys.readouterr().err


def test_exemplars_by_number(style) -> None:  # noqa: ANN001, F811
    control = next(control for control in style.controls if control.name == "exemplar")
    assert control.parse("1") == "bob" and control.parse("ann") == "ann"
    with pytest.raises(argparse.ArgumentTypeError):
        control.parse("17")
