"""The demo: generate a data set, train and test a detector and a segmenter on it, show what they see and miss."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from backbones.data.demo import generate_demo
from backbones.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    'detection': ('configs/small/mask-rcnn_convnext_demo.py', ('bbox_mAP', 'segm_mAP')),
    'segmentation': ('configs/small/upernet_vit_demo.py', ('mIoU',)),
}
PICTURES = 4  # validation pictures that are drawn


def run_demo(setup_seconds: float | None = None) -> dict:
    """Run the whole demo from the checkout's root; write `work_dirs/demo/summary.json`, overlays and reports.

    Args:
        setup_seconds: what the set-up took, for the summary; None if unknown.

    Returns:
        The summary: `detection` and `segmentation` with their metrics in 0..1, and `seconds`.

    Raises:
        ValueError: the package is not in a checkout, or one of the commands failed.
    """
    if not (ROOT / 'configs').is_dir():
        raise ValueError(f'the demo needs a checkout of the project (tools/ and configs/); there is none at {ROOT}')
    work = ROOT / 'work_dirs' / 'demo'
    data = generate_demo(ROOT / 'data' / 'demo')
    images = sorted(str(path.relative_to(ROOT)) for path in (data / 'images' / 'validation').glob('*.jpg'))
    for task in RUNS:
        shutil.rmtree(work / task, ignore_errors=True)  # what an earlier demo wrote
    started = time.perf_counter()
    summary: dict = {}
    for task, (config, names) in RUNS.items():
        folder = Path('work_dirs/demo') / task
        _command('train.py', config, '--work-dir', str(folder))
        checkpoint = str(folder / (ROOT / folder / 'last').read_text().strip())
        _command('test.py', config, checkpoint, '--work-dir', str(folder), '--details')
        metrics = json.loads((ROOT / folder / 'metrics.json').read_text())['metrics']
        # mmseg reports percent, COCO fractions
        summary[task] = {name: round(metrics[name] / (100 if name == 'mIoU' else 1), 4) for name in names}
        chosen = images[2 : 2 + PICTURES]
        _command('predict.py', config, checkpoint, *chosen, '--out', str(folder / 'predictions'))
        _command('report.py', str(folder))
    summary['seconds'] = dict(setup=setup_seconds, train_and_test=round(time.perf_counter() - started, 1))
    write_json(work / 'summary.json', summary, indent=2)
    _contact_sheet(work, [ROOT / image for image in images[2 : 2 + PICTURES]])
    return summary


def _command(tool: str, *arguments: str) -> None:
    """Run a tool of the checkout as a user would, its output shown."""
    print(f'\n$ python tools/{tool} {" ".join(arguments)}', flush=True)
    command = [sys.executable, str(ROOT / 'tools' / tool), *arguments]
    code = subprocess.run(command, cwd=ROOT, env=_environment()).returncode
    if code:
        raise ValueError(f'tools/{tool} ended with code {code}; its message is above')


@functools.cache
def _environment() -> dict[str, str]:
    """Environment of the tools: without the GPU where mmcv's ops were built for the CPU only."""
    if not torch.cuda.is_available():
        return dict(os.environ)
    from mmcv.ops import nms

    try:
        nms(torch.tensor([[0.0, 0, 9, 9]], device='cuda'), torch.ones(1, device='cuda'), 0.5)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        print(f'the GPU is not used: mmcv has no ops for it ({reason}); install nvcc and run make setup again')
        return {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    return dict(os.environ)


def _contact_sheet(work: Path, images: list[Path], zoom: int = 3, gap: int = 8) -> None:
    """Write `demo.png`: a row per picture, the picture, its detections, its label map."""
    rows = []
    for image in images:
        overlays = [work / task / 'predictions' / 'overlays' / f'{image.stem}.png' for task in RUNS]
        row = [Image.open(path).convert('RGB') for path in (image, *overlays)]
        width, height = row[0].size
        rows.append([one.crop((0, 0, one.width, round(one.width * height / width))) for one in row])  # no legends
    width, height = (zoom * side for side in rows[0][0].size)
    sheet = Image.new('RGB', (len(rows) * (width + gap) - gap, len(rows[0]) * (height + gap) - gap), 'white')
    for column, row in enumerate(rows):
        for line, picture in enumerate(row):
            sheet.paste(picture.resize((width, height), Image.LANCZOS), (column * (width + gap), line * (height + gap)))
    sheet.save(work / 'demo.png')


def format_summary(summary: dict) -> str:
    """The summary as one aligned table."""
    rows = [('task', 'model', 'metric', 'value')]
    models = {'detection': 'Mask R-CNN, ConvNeXt', 'segmentation': 'UperNet, ViT'}
    rows += [
        (task, models[task], name, f'{value:.3f}') for task in RUNS for name, value in summary[task].items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])
