"""Started by torchrun: trains a tiny generator on pictures for a few steps and writes what this process drew and ended with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tuner_worker import tiny_networks

from checkpoints.io import fingerprint
from training.adversarial_stage import FolderTuning, TuningConfig
from training.pretrain import parallel

if __name__ == "__main__":
    generator, critic, _ = tiny_networks()
    with parallel.group(torch.device("cpu")):
        pictures = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        stage = FolderTuning(generator, critic, pictures=pictures,
                             config=TuningConfig(steps=3, batch=2, augment_p=0.5, ada_target=0.6))
        drawn = [float(stage.draw()["z"].sum())]
        stage.step()
        stage.load_state(stage.state())
        stage.step()
        drawn.append(float(stage.draw()["z"].sum()))
        record = {"drawn": drawn, "networks": fingerprint(stage.network.state_dict(), stage.critic.state_dict()),
                  "start": fingerprint(generator.state_dict())}
        (Path(sys.argv[1]) / f"{parallel.rank()}.json").write_text(json.dumps(record))
