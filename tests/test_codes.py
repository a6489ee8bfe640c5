"""Dictionaries of codes in numpy's files: what is read, what is refused, and that nothing of a file is run."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from checkpoints import CheckpointError
from checkpoints.codes import read_codes


class Hostile:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


def npy(path, value, *, protocol=4):
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


def test_codes_of_every_form_are_read(tmp_path):
    rows = np.random.default_rng(0).standard_normal((1, 4, 6))
    codes = {"a b.jpg": rows.astype("f4"), "ü": np.asfortranarray(rows[0].astype(">f8")), "half": rows.astype("f2")}
    np.save(tmp_path / "x.npy", codes)
    for path in (tmp_path / "x.npy", *(npy(tmp_path / f"{p}.npy", codes, protocol=p) for p in (2, 3, 4))):
        found = read_codes(path)
        assert list(found) == list(codes) and all(code.dtype == torch.float32 for code in found.values())
        assert np.array_equal(found["ü"].numpy(), rows[0].astype("f4"))
        assert np.array_equal(found["a b.jpg"], codes["a b.jpg"][0])


def test_hostile_codes_are_refused_in_one_line_and_run_nothing(tmp_path):
    mark = tmp_path / "ran"
    calls = [(os.system, (f"touch {mark}",)), (eval, (f"open({str(mark)!r}, 'w')",)), (np.load, (str(mark),)),
             (bytearray, (10,)), (np.zeros, (9,)), (torch.load, (str(mark),))]
    for call in calls:
        for value in (Hostile(call), {"a": Hostile(call)}):
            with pytest.raises(CheckpointError, match="wants to run code") as error:
                read_codes(npy(tmp_path / "x.npy", value))
            assert "\n" not in str(error.value) and "x.npy" in str(error.value)
    assert not mark.exists()


def test_functions_of_the_reader_cannot_be_changed_by_a_pickle(tmp_path):
    # BUILD with a state on the stand-in of a function.
    for name in (b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"):
        with pytest.raises(CheckpointError, match="refused") as error:
            read_codes(npy(tmp_path / "x.npy", name + b"}(X\x04\x00\x00\x00makeNub."))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [
    {}, [1], {"a": 1}, {1: np.zeros((1, 2, 3), "f4")}, {"a\nb": np.zeros((1, 2, 3), "f4")}, {"a": np.zeros(3, "f4")},
    {"a": np.zeros((2, 2, 3), "f4")}, {"a": np.zeros((1, 2, 3), "i4")}, {"a": np.array(["x"], dtype=object)},
    {"a": np.zeros((1, 2, 3), "f4"), "b": np.zeros((1, 3, 3), "f4")}, {"a": np.full((1, 2, 3), np.nan, "f4")}, b"",
    b"\x80\x04.", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff", b"P0\n.",
])
def test_strange_codes_are_one_line(tmp_path, value):
    with pytest.raises(CheckpointError) as error:
        read_codes(npy(tmp_path / "x.npy", value))
    assert "\n" not in str(error.value) and "x.npy" in str(error.value)


def test_other_files_are_no_codes(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "z.npy").write_text("<html>")
    for name in ("x.npy", "y.npy", "z.npy", "absent.npy"):
        with pytest.raises(CheckpointError) as error:
            read_codes(tmp_path / name)
        assert "\n" not in str(error.value)
