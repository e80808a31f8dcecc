#!/usr/bin/env python
"""Evaluate a detector or a segmenter; the numbers and how they were measured go to metrics.json in the work folder.

python tools/test.py configs/small/mask-rcnn_convnext_demo.py work_dirs/mask-rcnn_convnext_demo/epoch_10.pth
python tools/test.py CONFIG CHECKPOINT --precision bf16     # final weights, folded and packed, in bf16
python tools/test.py CONFIG CHECKPOINT --precision bf16 --compile

python tools/test.py CONFIG CHECKPOINT --details            # per class, with intervals, errors: docs/evaluation.md

--precision fp32 is fast, too, and equal within rounding; without --precision, and without one in the config, the model
runs as it was trained. --compile pays where all pictures have one size (sliding windows, ViTDet): each further size is
compiled anew, which takes a minute or more.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

try:
    from backbones.cli import ToolParser, add_precision, parse_run_options, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None

if TYPE_CHECKING:
    from backbones.evaluation.details import DetailOptions


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='a checkpoint of this model, or the work folder of a run')
    parser.add_argument('--work-dir', help='folder of metrics.json and logs; default work_dirs/<config name>')
    parser.add_argument('--tta', action='store_true', help='several scales and a flip, merged')
    parser.add_argument(
        '--tile', metavar='SIZE', help='look at larger pictures in tiles of so many pixels, 1024 or 1333x800')
    parser.add_argument(
        '--tile-overlap', metavar='N', help='of tiles: a fraction or pixels; default 0.25')
    parser.add_argument(
        '--no-tile-whole', dest='tile_whole', action='store_false', help='with --tile: do not look at the whole, too')
    parser.add_argument('--loss', action='store_true', help='the losses of the test split, too')
    parser.add_argument(
        '--out', metavar='FILE',
        help='predictions: .json (detection, with the ids of the annotation file) or .zip of PNGs (segmentation)')
    parser.add_argument('--show-dir', metavar='DIR', help='overlays: prediction beside ground truth')
    add_precision(parser)
    parser.add_argument(
        '--compile', action='store_true',
        help='compile the dense parts of the model, once for every size of a batch: for sizes that are few')
    parser.add_argument(
        '--details', action='store_true',
        help='tables by class, intervals, kinds of errors; predictions and details.json go to WORK_DIR/evaluation')
    parser.add_argument(
        '--max-dets', type=int, nargs='+', metavar='N',
        help='with --details: AP and AR at these numbers of detections of an image and class')
    parser.add_argument(
        '--score', type=float, metavar='T',
        help='with --details: threshold of precision, recall, F1 and confusions; default: where F1 is best')
    parser.add_argument(
        '--resamplings', type=int, metavar='N', help='with --details: of the images, for intervals; default 1000')
    parser.add_argument('--plain', action='store_true', help='lines instead of a bar, as where there is no terminal')
    return parse_run_options(parser)


def main() -> None:
    args = parse_args()
    from backbones.evaluation.run import run_test
    from backbones.evaluation.tiles import read_tiles
    from backbones.training.screen import dumps_in_the_log_only

    tiles = read_tiles(args.tile, args.tile_overlap, args.tile_whole)
    details = detail_options(args)
    with dumps_in_the_log_only():
        run_test(args.config, args.checkpoint, args.work_dir, args.tta, args.out, args.show_dir, args.cfg_options,
                 args.launcher, args.precision, args.compile, details, tiles, args.loss, args.plain)


def detail_options(args: argparse.Namespace) -> DetailOptions | None:
    """What `--details` was asked for, if it was."""
    given = dict(max_dets=args.max_dets and tuple(args.max_dets), score=args.score, resamplings=args.resamplings)
    given = {name: value for name, value in given.items() if value is not None}
    if not args.details:
        if given:
            raise ValueError(f'--{next(iter(given)).replace("_", "-")} belongs to --details; add that, or leave it out')
        return None
    from backbones.evaluation.details import DetailOptions

    return DetailOptions(**given)


if __name__ == '__main__':
    run_tool(main)
