#!/usr/bin/env python
"""Train a detector or a segmenter.

python tools/train.py configs/small/mask-rcnn_convnext_demo.py
torchrun --nproc_per_node 8 tools/train.py configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py --launcher pytorch
python tools/train.py CONFIG --cfg-options train_dataloader.batch_size=1    # the total batch stays: docs/batch.md
"""

import argparse

try:
    from backbones.cli import ToolParser, add_precision, parse_run_options, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; default work_dirs/<config name>')
    parser.add_argument(
        '--resume', nargs='?', const='latest', metavar='auto|PATH',
        help='go on from the newest checkpoint of the work folder; "auto": if there is one; or from PATH')
    parser.add_argument(
        '--total-batch', type=int, metavar='N',
        help="images per optimiser step over all GPUs; default: the config's, kept by gradient accumulation")
    parser.add_argument(
        '--inject', metavar='FAULT[,FAULT]',
        help='faults on purpose, to rehearse: kill@save:0.37, enospc@save, nan@120, sigterm@200, worker-segv@50, '
        'hang@80, error@80:rank=1; docs/survival.md')
    add_precision(parser)
    parser.add_argument(
        '--compile', action='store_true', help='torch.compile for backbone, neck and dense heads; docs/performance.md')
    parser.add_argument(
        '--no-preflight', action='store_true',
        help='start without the quick part of tools/preflight.py; docs/preflight.md')
    parser.add_argument(
        '--log', '--trackers', nargs='+', metavar='TRACKER',  # torchrun takes --log for its own --log-dir
        help='tensorboard, wandb, mlflow, or none; default: tensorboard; docs/logging.md. Behind torchrun: --trackers')
    parser.add_argument('--plain', action='store_true', help='lines instead of a bar, as where there is no terminal')
    return parse_run_options(parser)


def main() -> None:
    args = parse_args()
    from backbones.training.launch import run_training
    from backbones.training.screen import dumps_in_the_log_only

    log = args.log and [name for word in args.log for name in word.split(',') if name or word == ',']
    with dumps_in_the_log_only():
        run_training(
            args.config, args.work_dir, args.resume, args.cfg_options, args.launcher, args.total_batch, args.inject,
            args.precision, args.compile, not args.no_preflight, log, args.plain)


if __name__ == '__main__':
    run_tool(main)
