"""Helpers of the folder tests: drawing without networks, and a process that loads the networks once and forks runs.

Run as a script with a style, it answers every line of JSON with one line: ``[standard error's file, arguments of
inference.py]`` forks a run and is answered by its process id, a process id is answered by its exit code once it ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from data.images import read_image, save_image  # noqa: E402
from pipeline.ledger import Drawn  # noqa: E402
from pipeline.naming import Photo  # noqa: E402


class Inverter:
    """Makes a drawing function without networks: two pictures per photo, inverted; settings are (output, pause)."""

    def __call__(self, settings: tuple[str, float]):  # noqa: ANN204
        output, pause = Path(settings[0]), settings[1]

        def draw(photo: Photo) -> Drawn:
            image, files = read_image(photo.path), [output / f"{photo.stem}{end}.png" for end in ("", "_side")]
            for path in files:
                save_image(path, Image.eval(image, lambda value: 255 - value))
                time.sleep(pause)
            return Drawn(1, files)

        return draw


def serve() -> None:
    """Fork a run per line of standard input; no network is loaded twice and nothing is shared but what is loaded."""
    import torch

    import inference
    from pipeline import stylize

    torch.set_num_threads(1)
    loaded = stylize.build_stylizer(sys.argv[1])

    def build(style: str, *, align: bool, faces: str | int, cache: Path, **_: object) -> stylize.Stylizer:
        return stylize.Stylizer(
            loaded.style, loaded.base, encoder=loaded.encoder, objective=loaded._make_objective,
            settings=loaded.settings, cache=stylize.LatentCache(cache), finder=loaded.finder if align else None, faces=faces)

    stylize.build_stylizer = build
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            os.dup2(os.open(asked[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(inference.main(asked[1]))
        print(child, flush=True)


if __name__ == "__main__":
    serve()
