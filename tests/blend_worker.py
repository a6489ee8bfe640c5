"""One process of a test run under torchrun: two stages of train_blend.py on tiny networks.

Arguments: the folder of state, the pack. Writes ``rank{R}.json`` into the folder's parent: digests of the weights that
every stage ended with, of its first pictures, and the files that this process saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from test_train_blend import GENERATOR, SIZE, STYLE, WIDTHS  # noqa: E402

from checkpoints.builders import Base  # noqa: E402
from models.discriminator import Discriminator, DiscriminatorConfig  # noqa: E402
from models.stylegan2 import Generator  # noqa: E402
from training.blend import run, stage  # noqa: E402
from training.blend.generator import BlendStageConfig  # noqa: E402
from training.pretrain import common, parallel  # noqa: E402
from training.pretrain.faces import FacePack  # noqa: E402

STEPS = 2


class StepClock(common.Clock):
    """Stop after STEPS by the first process's count."""

    asked = 0

    def _spent(self) -> float:
        return min(self.asked / STEPS, 1.0)

    def done(self) -> bool:
        over = super().done()
        self.asked += 1
        return over


def digest(tensors: list[torch.Tensor]) -> str:
    """Return a digest of the tensors' bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


def main(state: str, pack: str) -> None:
    torch.set_num_threads(1)
    stage.Clock = StepClock
    facts: dict[str, list[str]] = {"weights": [], "pictures": [], "saved": []}
    run_stage, save_state = stage.run_stage, common.save_state

    def recorded(trainer: stage.StageTrainer, path: Path, **settings: object) -> dict[str, float]:
        facts["pictures"].append(str(trainer.styles.rng.initial_seed()))
        terms = run_stage(trainer, path, **settings)
        facts["weights"].append(digest([t for part in (trainer.networks, trainer.averages) for module in part.values()
                                        for t in module.state_dict().values()]))
        return terms

    def saved(path: Path, content: dict) -> None:
        facts["saved"].append(path.name)
        save_state(path, content)

    run.run_stage, common.save_state = recorded, saved
    folder, pictures = Path(state), FacePack.load(Path(pack))
    torch.manual_seed(int(os.environ["RANK"]))  # what differs between processes must not stay so
    base = Base(Generator(GENERATOR), Discriminator(DiscriminatorConfig(SIZE, WIDTHS)), torch.zeros(16), "toy", "0")
    with parallel.group(torch.device("cpu")) as device:
        run.train_style_encoder(pictures, folder, minutes=1.0, config=STYLE, device=device)
        torch.distributed.barrier()
        run.train_blend(pictures, pictures, folder, base=base, minutes=1.0, config=BlendStageConfig(batch=2), device=device)
    (folder.parent / f"rank{os.environ['RANK']}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
