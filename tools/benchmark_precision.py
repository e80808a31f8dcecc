#!/usr/bin/env python
"""Train both demos in fp32 and in bf16 from several seeds, and compare what they end with.

python tools/benchmark_precision.py --out docs/precision.json     # twelve runs of two to four minutes

A run that is finished in the work folder is not done again.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from backbones.cli import ToolParser, run_tool

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = dict(detector='mask-rcnn_convnext_demo', segmenter='upernet_vit_demo')
METRICS = dict(box=('detector', 'bbox_mAP'), mask=('detector', 'segm_mAP'), miou=('segmenter', 'mIoU'))
PRECISIONS = ('fp32', 'bf16')


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', default='work_dirs/precision', help='folder of the runs')
    parser.add_argument('--out', metavar='FILE', help='write the figures as JSON')
    return parser.parse_args()


def metrics_of(config: str, precision: str, seed: int, folder: Path) -> dict[str, float]:
    """What a run ends with, which is trained first if it is not there."""
    place = folder / f'{config}-{precision}-{seed}'
    if not (place / 'metrics.json').exists():
        command = [
            sys.executable, 'tools/train.py', f'configs/small/{config}.py', '--precision', precision, '--work-dir',
            str(place.absolute()), '--cfg-options', f'randomness.seed={seed}']
        print(' '.join(command[1:]), flush=True)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f'{config}, {precision}, seed {seed}: {done.stderr.strip()[-500:]}')
    return json.loads((place / 'metrics.json').read_text())['metrics']


def main() -> None:
    args = parse_args()
    from backbones.files import check_writable, write_json

    if args.out is not None:
        check_writable(args.out)
    report: dict = dict(seeds=args.seeds)
    for name, (model, metric) in METRICS.items():
        report[name] = {}
        for precision in PRECISIONS:
            values = [metrics_of(CONFIGS[model], precision, seed, Path(args.work_dir))[metric] for seed in args.seeds]
            report[name][f'{precision}_runs'] = values
            report[name][precision] = ', '.join(f'{value:g}' for value in values)
            report[name][f'{precision}_mean'] = statistics.fmean(values)
        print(f'{name}: fp32 {report[name]["fp32"]}; bf16 {report[name]["bf16"]}')
    if args.out is not None:
        write_json(args.out, report, indent=1)


if __name__ == '__main__':
    run_tool(main)
