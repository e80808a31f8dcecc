#!/usr/bin/env python
"""Train a detector or a segmenter.

python tools/train.py configs/demo/mask-rcnn_convnext-demo.py
torchrun --nproc_per_node 8 tools/train.py configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py --launcher pytorch
"""

import argparse
import os

from backbones.cli import run_tool


def parse_args() -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; default work_dirs/<config name>')
    parser.add_argument(
        '--resume', nargs='?', const='latest', metavar='auto|PATH',
        help='go on from the newest checkpoint of the work folder; "auto": if there is one; or from PATH')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override config entries')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    from backbones.training.launch import run_training

    run_training(args.config, args.work_dir, args.resume, args.cfg_options, args.launcher)


if __name__ == '__main__':
    run_tool(main)
