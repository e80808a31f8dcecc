"""A model that needs no weights, and a prediction with it that gets SIGKILL.

As a program: CONFIG FOLDER. Predict FOLDER/in into FOLDER/out in forked processes that are killed at a change of a
file, a later one each time, until one comes to its end; prints how many were killed.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData


class Killed(BaseException):
    """What nothing catches."""


class OneBox:
    """Finds one object in every picture, whose score tells its colour; may end the process at a picture."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.killed_at: int | None = None

    def test_step(self, batch: dict) -> list:
        """Predict the upper left quarter."""
        self.batches.append(len(batch['inputs']))
        if self.killed_at is not None and sum(self.batches) >= self.killed_at:
            raise Killed
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            height, width = sample.ori_shape
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[0.0, 0, width / 2, height / 2]]), labels=torch.tensor([0]),
                scores=image.float().mean()[None] / 255, masks=torch.ones(1, height, width, dtype=torch.bool))
        return batch['data_samples']

    def build(self, cfg: Config, checkpoint: str) -> tuple[OneBox, tuple[str, ...]]:
        """In place of `backbones.evaluation.predict.build_model`."""
        init_default_scope(cfg.default_scope)
        return self, tuple('abcdef')


def _predict(config: str, folder: Path, number: int) -> None:
    """Predict, and get SIGKILL at the `number`-th change of a file."""
    from backbones.evaluation import predict

    changes = 0

    def hook(event: str, details: tuple) -> None:
        nonlocal changes
        writes = event == 'open' and isinstance(details[1], str) and set(details[1]) & set('wax+')
        if (writes or event in ('os.rename', 'os.mkdir')) and str(details[0]).startswith(str(folder / 'out')):
            changes += 1
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    predict.build_model = OneBox().build
    predict.predict(config, 'none.pth', [folder / 'in'], folder / 'out', resume=True)


def main(config: str, folder: Path) -> int:
    """How many processes were killed before one ended well."""
    import backbones.evaluation.predict  # noqa: F401  (once, not in each process)

    torch.set_num_threads(1)
    kills = 0
    while True:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _predict(config, folder, 1 + kills)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != -signal.SIGKILL:
            if code:
                sys.exit(code)
            return kills
        kills += 1


if __name__ == '__main__':
    print(main(sys.argv[1], Path(sys.argv[2])))
