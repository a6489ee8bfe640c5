"""Options, one-line errors and exit codes that all scripts share."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import cli

ROOT = Path(__file__).resolve().parent.parent


def parser() -> cli.ArgumentParser:
    built = cli.ArgumentParser(prog="x.py")
    built.add_argument("--input_image", default="a", help="photo")
    built.add_argument("--n_each", type=cli.positive_int, default=1)
    built.add_argument("--alpha", type=cli.finite_float, default=0.5)
    built.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True)
    cli.add_common(built)
    return built


def test_both_spellings_and_bare_flags():
    assert parser().parse_args(["--input-image", "b"]).input_image == "b"
    assert parser().parse_args(["--input_image", "b", "--n-each", "3"]).n_each == 3
    assert parser().parse_args(["--align"]).align and not parser().parse_args(["--align", "false"]).align
    assert parser().parse_args(["--alpha", "-0.5"]).alpha == -0.5


@pytest.mark.parametrize("argv", [
    ["--alpha", "much"], ["--alpha", "nan"], ["--alpha", "inf"], ["--n_each", "0"], ["--n_each", "2.5"],
    ["--align", "perhaps"], ["--unknown", "1"], ["--device", "abacus"], ["--seed", "-1"],
])
def test_bad_options_are_one_line_and_exit_2(argv, capsys):
    code = cli.run(lambda args: 0, lambda: parser().parse_args(argv))
    printed = capsys.readouterr().err
    assert code == 2 and printed.count("\n") == 1 and printed.startswith("x.py: ") and argv[0].lstrip("-") in printed


def test_errors_a_user_can_mend_are_one_line(capsys):
    def fail(args: argparse.Namespace) -> int:
        raise cli.UserError("file.png: first\n  second")

    assert cli.run(fail, argparse.Namespace) == 2
    assert capsys.readouterr().err == "file.png: first second\n"


def test_interruption_is_130_and_bugs_stay_visible(capsys):
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    def bug(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    assert cli.run(interrupt, argparse.Namespace) == 130
    with pytest.raises(ZeroDivisionError):
        cli.run(bug, argparse.Namespace)


def test_devices_and_dtypes():
    assert cli.resolve_device("cpu").type == "cpu"
    assert cli.resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert cli.resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(cli.UserError, match="float16"):
        cli.resolve_dtype("float16", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(cli.UserError, match="no CUDA"):
            cli.resolve_device("cuda")


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(cli.UserError, match="cannot be written"):
        cli.ensure_dir(tmp_path / "file" / "below")


def test_image_side_is_bounded():
    assert cli.image_side("8192") == 8192
    for text in ("8193", "100000000", "0"):
        with pytest.raises(argparse.ArgumentTypeError):
            cli.image_side(text)


def test_a_reader_that_leaves_early_is_no_error():
    """As in `python -m checkpoints list | head -1`, where Python would print a traceback."""
    code = ("import argparse, sys; from pipeline import cli\n"
            "def work(args):\n    while True: print('x' * 1000)\n"
            "sys.exit(cli.run(work, argparse.Namespace))")
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 0
