"""One process of a test run under torchrun: several stages of pretrain.py, with a record of what this process did.

Arguments: the folder of state, the pack, the teacher. Writes ``rank{R}.json`` into the folder's parent.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import pretrain  # noqa: E402
from models.discriminator import DiscriminatorConfig  # noqa: E402
from models.e4e import E4EConfig  # noqa: E402
from training.pretrain import autoencoder, common, critic, encoder, gan, parallel  # noqa: E402

STEPS = 2
BATCHES = {"AutoencoderConfig": {"batch": 2}, "GanConfig": {"reconstructions": 2, "samples": 2},
           "EncoderTrainingConfig": {"batch": 2}}
WIDTHS = {4: 16, 8: 16, 16: 16, 32: 16, 64: 16, 128: 16}


def small_encoder() -> E4EConfig:
    """Return the least encoder that fits the starter's generator."""
    return E4EConfig(input_size=128, n_styles=12, stem=8, widths=(8, 8, 16, 16), units=(1, 1, 1, 1), base_width=16,
                     delta_width=8)


def shrink() -> None:
    """Make networks and batches small, and leave out compilation."""
    autoencoder.STARTER_CHANNELS = WIDTHS
    critic.STARTER_DISCRIMINATOR = DiscriminatorConfig(128, WIDTHS)
    for module in STAGES:
        if hasattr(module, "starter_encoder_config"):
            module.starter_encoder_config = small_encoder
        for name, values in BATCHES.items():
            original = getattr(module, name, None)
            if dataclasses.is_dataclass(original):
                setattr(module, name, functools.partial(original, compile=False, **values))


def digest(tensors: list[torch.Tensor]) -> str:
    """Return a digest of the tensors' bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Record:
    """What this process drew, saved and ended with, stage by stage."""

    def __init__(self) -> None:
        self.faces: list[str] = []
        self.saved: list[str] = []
        self.weights: dict[str, str] = {}
        self.modules: list[torch.nn.Module] = []
        self.fractions: list[float] = []

    def watch(self) -> None:
        """Wrap the functions of the stages that are to be recorded."""
        draw, save, step = common.RandomFaces.__call__, common.save_state, parallel.average_step

        def drawn(faces: common.RandomFaces, n: int) -> torch.Tensor:
            batch = draw(faces, n)
            self.faces.append(digest([batch]))
            return batch

        def saved(path: Path, state: dict) -> None:
            self.saved.append(path.name)
            save(path, state)

        def stepped(*modules: torch.nn.Module) -> None:
            self.modules += [module for module in modules if module not in self.modules]
            step(*modules)

        common.RandomFaces.__call__ = drawn
        parallel.average_step = stepped
        for module in (common, *STAGES):
            module.save_state = saved

    def finish(self, stage: str) -> None:
        """Note the weights and buffers at the end of a stage."""
        self.weights[stage] = digest([t for module in self.modules for t in module.state_dict().values()])
        self.modules.clear()


class StepClock(common.Clock):
    """Stop after STEPS by the first process's count; the clocks of the others run wild and must not matter."""

    asked = 0

    def _spent(self) -> float:
        if parallel.leads():
            return min(self.asked / STEPS, 1.0)
        return time.monotonic() % 1.0

    def done(self) -> bool:
        over = super().done()
        self.asked += 1
        RECORD.fractions.append(self.fraction)
        return over


STAGES = (autoencoder, gan, encoder, critic)
RECORD = Record()


def main(state: str, pack: str, teacher: str) -> None:
    torch.set_num_threads(1)
    RECORD.watch()
    shrink()
    for module in STAGES:
        module.Clock = StepClock
    common_argv = ["--data", pack, "--state", state, "--device", "cpu"]
    taught = [*common_argv, "--teacher", teacher]
    stages = {"autoencoder": [*taught, "--size", "64"], "gan 64": [*taught, "--size", "64"], "gan 128": taught,
              "encoder": taught, "critic": common_argv}
    with parallel.group(torch.device("cpu")):
        for stage, argv in stages.items():
            code = pretrain.main([stage.split()[0], *argv])
            if code:
                raise SystemExit(code)
            RECORD.finish(stage)
    facts = {"faces": RECORD.faces, "saved": RECORD.saved, "weights": RECORD.weights, "fractions": RECORD.fractions}
    (Path(state).parent / f"rank{os.environ['RANK']}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
