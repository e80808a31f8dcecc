#!/usr/bin/env python
"""Evaluate a detector or a segmenter; the numbers and how they were measured go to metrics.json in the work folder.

python tools/test.py configs/demo/mask-rcnn_convnext-demo.py work_dirs/mask-rcnn_convnext-demo/epoch_12.pth
"""

import argparse
import os

from backbones.cli import run_tool


def parse_args() -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of a checkpoint of this model')
    parser.add_argument('--work-dir', help='folder of metrics.json and logs; default work_dirs/<config name>')
    parser.add_argument('--tta', action='store_true', help='several scales and a flip, merged')
    parser.add_argument('--out', metavar='FILE', help='predictions: .json (detection) or .zip of PNGs (segmentation)')
    parser.add_argument('--show-dir', metavar='DIR', help='overlays: prediction beside ground truth')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override config entries')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    from backbones.evaluation.run import run_test

    run_test(args.config, args.checkpoint, args.work_dir, args.tta, args.out, args.show_dir, args.cfg_options,
             args.launcher)


if __name__ == '__main__':
    run_tool(main)
