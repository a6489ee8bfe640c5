"""Clips that are interrupted, killed or out of disk space; NIGHTLY=1 kills 20 times instead of 4."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from test_video import FakeFinder, FakeStylizer, decoded, make_clip, restyle

from data.images import WriteError
from pipeline.cli import UserError
from styles.controls import Look

KILLS = 20 if os.environ.get("NIGHTLY") else 4


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """The drawing runs in a child; it is killed at random moments until it gets through."""
    path = tmp_path / "clip.mp4"
    make_clip(path, frames=40)
    restyle(path, tmp_path / "whole.mp4", stylizer=FakeStylizer(FakeFinder(noise=0.0)))
    rng, output, kept = random.Random(0), tmp_path / "out.mp4", 0
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            restyle(path, output, stylizer=FakeStylizer(pause=0.01))
            os._exit(0)
        time.sleep(rng.uniform(0.05, 0.35))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = len(list((tmp_path / "out.mp4.parts").glob("0*.json"))) if not output.exists() else 99
        assert now >= kept, "a finished segment was lost"
        kept = now
    counted = []
    restyle(path, output, progress=counted.append)
    one, other = decoded(tmp_path / "whole.mp4"), decoded(output)
    assert len(one) == len(other) == 40 == sum(counted)
    assert all(np.array_equal(a[1], b[1]) and a[0] == b[0] for a, b in zip(one, other))


def test_other_settings_start_afresh_and_second_run_waits(tmp_path):
    import fcntl

    path, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    make_clip(path)

    class Stop(Exception):
        pass

    def stop(done):
        stop.count = getattr(stop, "count", 0) + done
        if stop.count == 7:
            raise Stop

    with pytest.raises(Stop):
        restyle(path, output, progress=stop)
    parts = tmp_path / "out.mp4.parts"
    assert len(list(parts.glob("0*.json"))) == 1 and not output.exists()
    with open(parts / "lock", "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is making this clip"):
            restyle(path, output)
    counted = []
    restyle(path, output, progress=counted.append, look=Look(alpha=0.5))
    assert counted[0] == 1, "segments of another look were taken"


def test_full_disk_keeps_segments_and_goes_on(tmp_path):
    disk, path = tmp_path / "disk", tmp_path / "clip.mkv"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    try:
        make_clip(path, frames=30, size=(320, 240))
        (disk / "ballast").write_bytes(bytes(2**20 - 90_000))
        with pytest.raises(WriteError) as error:
            restyle(path, disk / "out.mp4", quality=1)
        assert "free space and give the same command again" in str(error.value) and not (disk / "out.mp4").exists()
        kept = len(list((disk / "out.mp4.parts").glob("0*.json")))
        (disk / "ballast").unlink()
        counted = []
        restyle(path, disk / "out.mp4", progress=counted.append, quality=1)
        assert len(decoded(disk / "out.mp4")) == 30 and (kept == 0 or counted[0] == 5 * kept)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_memory_does_not_grow_with_the_clip(tmp_path):
    path = tmp_path / "long.mp4"
    make_clip(path, frames=600, size=(320, 240), sound=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = restyle(path, tmp_path / "out.mp4", segment=60)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # All frames together would be 138 MB.
    assert report.frames == 600 and grown < 90
