"""Command lines of the published scripts: what a file knows is checked, warps can be left out, one GPU of several is named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_train_cli import tiny_networks

import deformation_control
import generate_samples
import inference
from models.deformable import DeformableGenerator
from pipeline import cli
from pipeline.published import apply


@pytest.fixture
def style():
    generator = tiny_networks()[0]
    size = max(generator.config.channels)
    return SimpleNamespace(name="toy", transformers=DeformableGenerator.for_generator(generator, resolutions=(size,),
                                                                                      grid_size=5))


def given(**options):
    return SimpleNamespace(**{name: options.get(name) for name in ("swap_res", "swap_gs", "use_stn", "use_rtstn")})


def test_what_the_file_holds_is_taken(style):
    apply(given(swap_res=tuple(style.transformers.config.resolutions), swap_gs=5, use_stn=True, use_rtstn=True), style)
    assert style.transformers.tps is not None and style.transformers.affine is not None


@pytest.mark.parametrize(("options", "word"), [({"swap_res": (8, 16)}, "--swap_res"), ({"swap_gs": 10}, "made with 5")])
def test_what_it_does_not_hold_is_refused(style, options, word):
    with pytest.raises(cli.UserError, match=word):
        apply(given(**options), style)
    with pytest.raises(cli.UserError, match="no trained warps"):
        apply(given(**options), SimpleNamespace(name="other", transformers=None))


def test_warps_are_left_out(style):
    """Without both the picture is the generator's own."""
    deformable = style.transformers
    apply(given(use_stn=False, use_rtstn=False), style)
    w_plus = torch.randn(1, *deformable.broadcast(torch.zeros(1, deformable.generator.config.style_dim)).shape[1:])
    noise = deformable.generator.fixed_noise()
    assert torch.equal(deformable.synthesis(w_plus, noise=noise).image, deformable.generator.synthesis(w_plus, noise=noise))
    with pytest.raises(cli.UserError, match="without such"):
        apply(given(use_stn=True), style)


def test_options_are_taken_and_checked_by_the_scripts(capsys, tmp_path):
    assert inference.parse(["--swap_res", "32,64", "--swap_gs", "10"]).swap_res == (32, 64)
    args = deformation_control.parse(["--use-stn", "false", "--use_rtstn", "--swap-gs", "7"])
    assert (args.use_stn, args.use_rtstn, args.swap_gs) == (False, True, 7)
    assert deformation_control.main(["--swap_gs", "3", "--output", str(tmp_path)]) == 2
    assert "--swap_gs: the style cartoon was made with" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seeds", "1"], [], ["--style", "cartoon:1,cartoon:1", "--mix_grid", "1"]])
def test_random_faces_take_them_too(capsys, tmp_path, words):
    args = generate_samples.parse(["--swap_res", "32,64", "--swap-gs", "10", "--use_stn", "false", "--use-rtstn"])
    assert (args.swap_res, args.swap_gs, args.use_stn, args.use_rtstn) == ((32, 64), 10, False, True)
    assert generate_samples.main([*words, "--swap_gs", "3", "--n_each", "1", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("--swap_gs: the style cartoon") and "leave the option out" in error and error.count("\n") == 1
    assert generate_samples.main(["--style", "any", "--use_stn", "false", "--output", str(tmp_path)]) == 2
    assert "--use_stn: the style any has no trained warps" in capsys.readouterr().err


def test_a_sweep_through_styles_checks_those_styles(capsys, tmp_path, monkeypatch):
    """And not the style of --style, which it does not draw."""
    seen = []
    monkeypatch.setattr(deformation_control, "apply", lambda args, style: seen.append(style.name))
    assert deformation_control.main(["--styles", "ink,vangogh", "--output", str(tmp_path), "--size", "64"]) == 0
    assert seen == ["ink", "vangogh"]


def test_one_gpu_of_several(monkeypatch):
    assert cli.device_name("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cli.resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(cli.UserError, match="2 CUDA device"):
        cli.resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(cli.UserError, match="cuda:1: this machine has no CUDA"):
        cli.resolve_device("cuda:1")
    with pytest.raises(Exception, match="cuda:N"):
        cli.device_name("cuda:x")
