"""What the seam between kinds of styles and the rest promises: no names, no imports across it, no option lost."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERAL = ("inference.py", "generate_samples.py", "deformation_control.py", "export.py", "stylize_dataset.py", "app.py",
           "face_align.py")
# Whole identifiers of the systems and of what only they have. "blended" and "to modify" are plain English, so these
# two count only as a system's own words: BlendGAN, blend_..., styles.blend; MODIFY, styles.modify.
NAMES = re.compile(r"deformable|doesfs|blendgan|\bblend_(?!strip)\w+|styles\.blend|dualstyle|modres|exemplar|\bMODIFY\b"
                   r"|styles\.modify|landmark_projection|\bprojection[./]|EdgeDrawing", re.IGNORECASE)
# The module names by which each system's files are known; training/pretrain and what all share belong to none.
SYSTEMS = {
    "one-shot": r"deformable\w*|mixing|finetune|prepare|guide|objective",
    "blend": r"blend|blending|blend_(?!weights)\w+|style_encoder|projection_discriminator",
    "dual": r"dual\w*|exemplar\w*|modres",
    "modify": r"modify\w*",
    "landmark projection": r"projection|published_projection|expressions",
}
OPTIONS = {
    "inference": "align alpha cache clip_output face faces force input_image inversion jobs largest lr output paste_back "
                 "paste_color recursive smooth steps stroke_strength style tone_strength base encoder device dtype seed",
    "generate_samples": "alpha batch film graphs interpolate latents mix_grid mix_seeds n_each n_sample nrow output save_latents "
                        "seeds size stroke_strength style style_only tone_strength truncation base device dtype seed",
    "deformation_control": "alpha alpha0 alpha1 animate frames n_each n_sample output region size split stroke_strength style "
                           "tone_strength truncation base device dtype seed",
    "stylize_dataset": "address align alpha base batch_size column device encoder faces input inversion output report steps "
                       "style workers",
    "export": "batch encoder format output size style what",
    "app": "device faces host max_upload_mb outdir port",
    "face_align": "faces output path predictor size",
    "train": "a2agg_wt a2agr_wt a2b_wt adv_wt adversarial_batch affine_lr align base batch checkpointing ckpt coarse_rate "
             "cross_layers cross_mode d_lr device dtype export_published g_accum g_lr heads hp img_res inversion_lr "
             "inversion_start inversion_steps iterations landmark_wt lpips_dir mode num_iter outdir overwrite path_batch "
             "path_every path_weight profile r1_every r1_gamma r1_heads resume rtstn_lr save_every seed sheet_every source "
             "stn_accum stn_lr style style_ref swap_layer target tps_lr tune_g tune_mapping use_rtstn use_stn vit warp_form "
             "warp_grid warp_gs warp_res warp_wt within_layers within_mode",
}


def general_files() -> list[Path]:
    return [ROOT / name for name in GENERAL] + [path for part in ("pipeline", "web", "data")
                                                for path in (ROOT / part).glob("*.py")]


def test_no_file_but_the_registry_names_a_kind():
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for path in general_files()
             for number, line in enumerate(path.read_text().splitlines(), 1) if NAMES.search(line)]
    assert not found, "\n".join(found)


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ("models", "losses", "training", "styles", "projection")}


def system_of(parts: tuple[str, ...]) -> str | None:
    """Return the system whose file a module is, by the words of its path."""
    return next((name for name, words in SYSTEMS.items() if any(re.fullmatch(words, part) for part in parts)), None)


def test_systems_do_not_import_each_other():
    crossing = []
    for folder in ("models", "losses", "training", "styles", "projection"):
        for path in (ROOT / folder).rglob("*.py"):
            own = system_of(path.relative_to(ROOT).with_suffix("").parts)
            for name in imported(path):
                other = system_of(tuple(name.split(".")))
                if own and other and own != other:
                    crossing.append(f"{path.relative_to(ROOT)} ({own}) imports {name} ({other})")
    assert not crossing, "\n".join(sorted(crossing))


def test_the_words_find_the_systems():
    assert system_of(("styles", "deformable_graph")) == "one-shot" and system_of(("styles", "protocol")) is None
    assert NAMES.search("from styles.deformable import x") and not NAMES.search("the restyled faces are blended in")


@pytest.mark.parametrize("name", ["protocol", "controls", "registry"])
def test_the_protocol_imports_no_kind(name):
    assert not [module for module in imported(ROOT / "styles" / f"{name}.py") if system_of(tuple(module.split(".")))]


@pytest.mark.parametrize("name", ["session", "course", "state", "report", "trainer"])
def test_a_session_imports_no_system(name):
    found = imported(ROOT / "training" / f"{name}.py")
    shared = [["training", own] for own in ("course", "report", "state", "trainer")]
    assert all(module.split(".")[:2] in shared for module in found)


@pytest.mark.parametrize("script", sorted(OPTIONS))
def test_no_option_is_lost(script, monkeypatch, tmp_path, capsys):
    """Whoever has commands of an older version finds every option, in both spellings."""
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        importlib.import_module(script).parse(["--help"])
    shown = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    wanted = {text for name in OPTIONS[script].split() for text in (f"--{name}", f"--{name.replace('_', '-')}")}
    assert end.value.code == 0 and not wanted - shown
