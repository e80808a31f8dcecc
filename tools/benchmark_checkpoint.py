#!/usr/bin/env python
"""How long a save keeps the training waiting: our hook against one plain torch.save of the same state.

python tools/benchmark_checkpoint.py --out docs/checkpoints.json && python tools/update_docs.py   # docs/checkpoints.md
"""

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from backbones.cli import ToolParser, run_tool


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--megabytes', type=float, default=100, help='size of the weights; AdamW adds twice as much')
    parser.add_argument('--repeats', type=int, default=7, help='of each, alternating; the medians are reported')
    parser.add_argument('--folder', help='where to write; default: the folder for temporary files')
    parser.add_argument('--device', default='cpu', help='where the model is: cpu, cuda')
    parser.add_argument('--out', metavar='FILE', help='write the numbers as JSON')
    return parser.parse_args()


def build_runner(folder: Path, megabytes: float, device: str):
    """A run of one step whose model has so many MB of weights."""
    import torch
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from torch import nn
    from torch.utils.data import Dataset

    class Numbers(Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict:
            return dict(inputs=torch.ones(512))

    class Layers(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(round(megabytes * 1e6 / (4 * 512 * 513))))

        def forward(self, inputs: list, mode: str) -> dict:
            values = torch.stack(inputs).to(next(self.parameters()).device)
            return dict(loss=sum(layer(values).square().mean() for layer in self.layers))

    runner = Runner(
        Layers(), str(folder), train_cfg=dict(by_epoch=False, max_iters=1), log_level='ERROR',
        train_dataloader=dict(dataset=Numbers(), batch_size=1, sampler=dict(type='InfiniteSampler')),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
        default_hooks=dict(checkpoint=None), experiment_name='benchmark')
    runner.train()
    runner.model.to(device)
    return runner


def measure(runner, folder: Path, repeats: int) -> dict:
    """Time both ways of saving, one after the other."""
    import torch

    from backbones.training.safe_checkpoint import SafeCheckpointHook, capture

    hook = SafeCheckpointHook(by_epoch=False, max_keep_ckpts=1, export=())
    hook.before_train(runner)
    times: dict[str, list[float]] = dict(torch_save=[], stall=[], to_disk=[])
    for number in range(repeats + 1):  # the first of each is thrown away
        start = time.perf_counter()
        state = dict(model=runner.model.state_dict(), optimizer=runner.optim_wrapper.state_dict())
        torch.save(state, folder / 'plain.pth')
        plain = time.perf_counter() - start
        os.sync()  # neither pays for what the other left to the system
        start = time.perf_counter()
        hook._save(runner, f'iter_{number + 1:06d}', number + 1, 0)
        stall = time.perf_counter() - start
        hook._settle(runner, wait=True)
        whole = time.perf_counter() - start
        os.sync()
        if number:
            for name, value in zip(times, (plain, stall, whole), strict=True):
                times[name].append(value)
    hook._writer.close()
    tree = capture(runner)
    size = sum(value.nbytes for value in tree['model'].values())
    medians = {f'{name}_seconds': round(statistics.median(values), 4) for name, values in times.items()}
    return dict(
        weights_mb=round(size / 1e6, 1), state_mb=round((folder / 'plain.pth').stat().st_size / 1e6, 1), **medians,
        stall_relative=round(statistics.median(times['stall']) / statistics.median(times['torch_save']), 3),
        all_seconds={name: [round(value, 4) for value in values] for name, values in times.items()},
        repeats=repeats, torch=torch.__version__, cpu=platform.machine(), threads=torch.get_num_threads())


def main() -> None:
    args = parse_args()
    from backbones.files import write_json

    folder = Path(tempfile.mkdtemp(dir=args.folder, prefix='checkpoints_'))
    try:
        found = measure(build_runner(folder / 'run', args.megabytes, args.device), folder, args.repeats)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = dict(device=args.device, **found)
    if args.out:
        write_json(args.out, found, indent=2)
    print(
        f'state of {found["state_mb"]} MB: torch.save {found["torch_save_seconds"]} s; the run waits '
        f'{found["stall_seconds"]} s for ours ({found["stall_relative"]} times), on the disk and verified after '
        f'{found["to_disk_seconds"]} s')


if __name__ == '__main__':
    run_tool(main)
