"""A long run of the demo on tiny images, and what it holds while it goes on: memory, files, threads, shared memory.

As a program, `python long_run_helpers.py ARGUMENTS...` is `tools/train.py ARGUMENTS...` that knows a hook which writes
lines of figures: always in the middle of an epoch, and away from checkpoints and validations, so that equal phases of
the run are compared.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from conftest import ROOT
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from backbones.data.demo import generate_demo

SIZE = (32, 48)  # H, W of the segmenter's images
EPOCH, EVERY, PHASE, SAVE, VALIDATE = 50, 250, 25, 300, 1000  # iterations
WORKERS, BATCH = 2, 2
MB = 1 << 20


def snapshot(seen: Iterable[int] = ()) -> dict[str, float]:
    """What this process and its children hold now.

    Args:
        seen: process ids of former children, whose names in /dev/shm count, too.

    Returns:
        `rss_mb`, `anonymous_mb`, `fds` (those of tensors in shared memory not counted: how many batches lie ready is a
        matter of timing), `threads`, `children`, `objects` (of Python's garbage collector), `children_mb` (without what
        they share with others), `children_fds`, `shm_files`, `shm_mb` (held by any of the processes, also without a
        name), `shm_names` (in /dev/shm, of any of the processes or of former ones).
    """
    children = child_pids()
    own, theirs = open_files('self'), [open_files(pid) for pid in children]
    shared = {file: size for files in (own, *theirs) for target, file, size in files if _is_shared(target)}
    pids = {os.getpid(), *children, *seen}
    names = [name for name in os.listdir('/dev/shm') if any(part.isdigit() and int(part) in pids
                                                            for part in name.replace('-', '_').split('_'))]
    status = _fields('/proc/self/status')
    return dict(
        rss_mb=status['VmRSS'] / 1024, anonymous_mb=status['RssAnon'] / 1024, threads=status['Threads'],
        fds=sum(not _is_shared(target) for target, *_ in own), children=len(children), objects=len(gc.get_objects()),
        children_mb=sum(_private(pid) for pid in children) / MB,
        children_fds=sum(not _is_shared(target) for files in theirs for target, *_ in files),
        shm_files=len(shared), shm_mb=sum(shared.values()) / MB, shm_names=len(names))


def child_pids() -> set[int]:
    """Of this process; zombies are among them."""
    found = set()
    for task in _listed('/proc/self/task'):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found |= {int(pid) for pid in Path(f'/proc/self/task/{task}/children').read_text().split()}
    return found


def open_files(pid: int | str) -> list[tuple[str, int, int]]:
    """Target, inode and bytes on the disk of each open file of a process."""
    found = []
    for entry in _listed(f'/proc/{pid}/fd'):
        try:
            state = os.stat(f'/proc/{pid}/fd/{entry}')
            found.append((os.readlink(f'/proc/{pid}/fd/{entry}'), state.st_ino, state.st_blocks * 512))
        except OSError:  # closed meanwhile, as the one that read the folder
            continue
    return found


def _private(pid: int) -> int:
    """Bytes of memory that a process shares with no other."""
    sizes = _fields(f'/proc/{pid}/smaps_rollup')
    return 1024 * (sizes.get('Private_Clean', 0) + sizes.get('Private_Dirty', 0))


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a worker that has just ended
        return []


def _is_shared(target: str) -> bool:
    return target.startswith('/dev/shm/')


def _fields(path: str) -> dict[str, int]:
    """`Name:  number ...` lines of a file of /proc."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = [(words[0].rstrip(':'), words[1]) for words in map(str.split, lines) if len(words) > 1]
    return {name: int(value) for name, value in pairs if value.isdigit()}


@HOOKS.register_module()
class FiguresHook(Hook):
    """Write a line of figures from time to time.

    Args:
        file: where to; JSON, one object a line.
        every: iterations between two lines.
        phase: iteration of the first line.
    """

    priority = 'LOWEST'

    def __init__(self, file: str, every: int = EVERY, phase: int = PHASE) -> None:
        self.file, self.every, self.phase = Path(file), every, phase
        self.seen: set[int] = set()
        self.start = time.monotonic()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Measure, if it is time to."""
        self.seen |= child_pids()
        if (runner.iter + 1) % self.every != self.phase:
            return
        work = [path for path in Path(runner.work_dir).rglob('*') if path.is_file()]
        temporary = os.environ.get('TMPDIR')
        figures = dict(
            iteration=runner.iter + 1, seconds=round(time.monotonic() - self.start, 1), **snapshot(self.seen),
            workers_so_far=len(self.seen), history_mb=history_bytes(runner) / MB, work_files=len(work),
            work_mb=sum(path.stat().st_size for path in work) / MB,
            temporary_files=len(os.listdir(temporary)) if temporary else 0)
        with open(self.file, 'a') as file:
            file.write(json.dumps(figures) + '\n')


def history_bytes(runner: Any) -> int:
    """MMEngine keeps every logged number of a run, up to a million of each name."""
    buffers = runner.message_hub.log_scalars.values()
    return sum(array.nbytes for buffer in buffers for array in buffer.data)


def make_data(folder: Path, size: tuple[int, int] | None = SIZE, train: int = EPOCH * BATCH, val: int = 4) -> Path:
    """The demo's data, with `size` shrunk to it; only the label maps fit then."""
    generate_demo(folder, num_train=train, num_val=val, size=(64, 96), progress=False)
    for path in sorted([*folder.glob('*/*/*.jpg'), *folder.glob('*/*/*.png')]) if size else ():
        image = Image.open(path)
        image.resize(size[::-1], Image.Resampling.NEAREST).save(path)
    return folder


def segmenter(data: Path, iterations: int, save: int = SAVE, validate: int = VALIDATE) -> dict[str, Any]:
    """Options that make the demo's segmenter tiny; its loader starts anew with each epoch."""
    height, width = SIZE
    return {
        **_shared(data, 'mIoU', save), 'train_cfg.max_iters': iterations, 'train_cfg.val_interval': validate,
        'param_scheduler.0.end': 2, 'param_scheduler.1.begin': 2, 'param_scheduler.1.end': iterations,
        'train_dataloader.sampler.type': 'backbones.ResumableSampler',
        'model.data_preprocessor.size': (height, width), 'val_dataloader.dataset.pipeline.1.scale': (width, height),
        'model.backbone.arch.embed_dim': 12, 'model.backbone.arch.depth': 4, 'model.backbone.out_indices': (0, 1, 2, 3),
        'model.neck.in_channels': 12, 'model.decode_head.in_channels': [12] * 4, 'model.decode_head.channels': 8,
        'model.decode_head.pool_scales': (1,),
        'model.auxiliary_head.in_channels': 12, 'model.auxiliary_head.channels': 8}


def detector(data: Path, iterations: int) -> dict[str, Any]:
    """The same for the demo's detector, whose loop counts epochs."""
    epochs, width = iterations // EPOCH, 8
    model = {
        'backbone.arch.depths': (1,) * 4, 'backbone.arch.dims': (width,) * 4, 'neck.in_channels': [width] * 4,
        'neck.out_channels': width, 'rpn_head.in_channels': width, 'rpn_head.feat_channels': width,
        'roi_head.bbox_roi_extractor.out_channels': width, 'roi_head.mask_roi_extractor.out_channels': width,
        'roi_head.bbox_head.in_channels': width, 'roi_head.bbox_head.fc_out_channels': 16,
        'roi_head.mask_head.in_channels': width, 'roi_head.mask_head.conv_out_channels': width,
        'roi_head.mask_head.num_convs': 1, 'train_cfg.rpn.sampler.num': 16, 'train_cfg.rcnn.sampler.num': 8,
        'train_cfg.rpn_proposal.nms_pre': 40, 'train_cfg.rpn_proposal.max_per_img': 20, 'test_cfg.rpn.nms_pre': 40,
        'test_cfg.rpn.max_per_img': 20}
    return {
        **_shared(data, 'coco/segm_mAP', SAVE), **{f'model.{key}': value for key, value in model.items()},
        'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': VALIDATE // 2 // EPOCH,
        'param_scheduler.1.end': epochs, 'val_dataloader.dataset.pipeline.1.scale': (96, 64)}


def _shared(data: Path, metric: str, save: int) -> dict[str, Any]:
    return {
        'data_root': str(data), 'train_dataloader.batch_size': BATCH,
        'train_dataloader.num_workers': WORKERS, 'val_dataloader.num_workers': WORKERS,
        'default_hooks.checkpoint.interval': save, 'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.max_keep_ckpts': 3, 'default_hooks.checkpoint.save_best': metric}


@dataclass(frozen=True)
class Run:
    """A demo made tiny and long.

    Attributes:
        config: of the demo.
        options: that make it tiny, from the folder of the data and the number of iterations.
        size: to which the images are shrunk; None: as generated, 64 x 96.
        iterations: of the whole run.
        tensors: of a sample, at most; each is a file of shared memory on its way from a worker.
        every: iterations between two measurements.
        warm_up: from here on, all is to be flat.
        growth: of memory, in MB per 1000 iterations, that is flat.
    """

    config: str
    options: Callable[[Path, int], dict[str, Any]]
    size: tuple[int, int] | None
    iterations: int
    tensors: int
    every: int = EVERY
    warm_up: int = 1500
    growth: float = 1.0

    def train(self, folder: Path) -> int:
        """Run `tools/train.py`; log and figures go to `log.txt` and `figures.jsonl` of the folder; returns its code."""
        (folder / 'tmp').mkdir()
        environment = {
            **os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}', 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '',
            'TMPDIR': str(folder / 'tmp')}
        options = self.options(make_data(folder / 'data', self.size), self.iterations) | {
            'default_hooks.figures.type': 'FiguresHook', 'default_hooks.figures.file': folder / 'figures.jsonl',
            'default_hooks.figures.every': self.every}
        given = [f'{key}={value}'.replace(' ', '') for key, value in options.items()]
        command = [sys.executable, __file__, str(ROOT / self.config), '--work-dir', str(folder / 'run'),
                   '--total-batch', str(BATCH), '--cfg-options', *given]
        with open(folder / 'log.txt', 'w') as log:
            return subprocess.run(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT).returncode


# At about iteration 2400 of both, the memory grows by 3.7 MB, once: the size of a table of Python's that doubles. A
# median over 8500 iterations does not see it, one over 2500 would. What the detector finds differs in number, so its
# heap finds its size more slowly.
RUNS = dict(
    segmenter=Run('configs/small/upernet_vit_demo.py', segmenter, SIZE, iterations=10_000, tensors=2),
    detector=Run(
        'configs/small/mask-rcnn_convnext_demo.py', detector, None, iterations=4000, tensors=3, every=100,
        warm_up=2600, growth=2.0))


def summarise(run: Run, folder: Path) -> dict[str, Any]:
    """What a finished run in `folder` held: all figures, and slopes and ranges after the warm-up."""
    lines = [json.loads(line) for line in (folder / 'figures.jsonl').read_text().splitlines()]
    names = [name for name in lines[0] if name not in ('iteration', 'seconds', 'workers_so_far')]
    flat = [line for line in lines if line['iteration'] > run.warm_up]
    return dict(
        config=run.config, iterations=run.iterations, warm_up=run.warm_up, growth=run.growth,
        tensors=run.tensors, seconds=lines[-1]['seconds'], workers_so_far=lines[-1]['workers_so_far'],
        slopes={name: round(slope(flat, name), 3) for name in names},  # per 1000 iterations
        ranges={name: [round(f(line[name] for line in flat), 3) for f in (min, max)] for name in names},
        figures={name: [round(line[name], 3) for line in lines] for name in lines[0]})


def slope(figures: list[dict], name: str) -> float:
    """Theil-Sen: the median of the slopes between all pairs of lines, per 1000 iterations."""
    points = [(line['iteration'], line[name]) for line in figures]
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2)) * 1000


if __name__ == '__main__':
    sys.argv = [str(ROOT / 'tools' / 'train.py'), *sys.argv[1:]]
    runpy.run_path(sys.argv[0], run_name='__main__')
