#!/usr/bin/env python
"""Time a config against what would be run instead: turn by turn in one process, with the same weights and images.

python tools/benchmark.py configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py --what backbone --size 512x512
python tools/benchmark.py CONFIG --what inference train --against stock --repeats 5 --json result.json
python tools/benchmark.py CONFIG --checkpoint trained.pth --what inference

Peers: mmpretrain, timm and hf (Hugging Face's transformers) give the backbone, the heads are mmdet's and mmseg's own;
stock is all of mmdet or mmseg. One that is not installed is skipped with a line. No data and no downloads.
"""

import argparse
import warnings

try:
    from backbones.cli import ToolParser, add_overrides, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--what', nargs='+', metavar='WHAT', help='backbone, inference, train; all by default')
    parser.add_argument('--against', nargs='+', metavar='PEER', help='mmpretrain, timm, hf, stock; all by default')
    parser.add_argument('--variants', nargs='+', metavar='NAME', help='ways in which ours is run: plain, '
                        'fp32, bf16, bf16-compiled; fp32 and bf16 by default')
    parser.add_argument('--size', metavar='HxW', help='of the images, in place of what the config makes')
    parser.add_argument('--batch', type=int, help='images; 1 by default, 2 in the training step of a segmenter')
    parser.add_argument('--repeats', type=int, default=7, help='pairs of runs of each comparison at most; default 7')
    parser.add_argument('--seconds', type=float, default=60, help='for the timed runs of each comparison; at least '
                        'three pairs are run; default 60')
    parser.add_argument('--threads', type=int, help='of torch; by default as many as it takes')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights of the whole model; random ones by default')
    parser.add_argument('--json', metavar='FILE', help='write everything, every single time included')
    add_overrides(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from backbones.benchmark.compare import Settings, benchmark
    from backbones.benchmark.report import format_report
    from backbones.budget import parse_size
    from backbones.files import check_writable, write_json

    given = {key: getattr(args, key) for key in ('what', 'against', 'variants', 'batch', 'repeats', 'seconds',
                                                  'threads', 'checkpoint')}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})
    if args.size is not None:
        settings.size = parse_size(args.size)
    if args.json is not None:
        check_writable(args.json)
    warnings.filterwarnings('ignore')  # of toolboxes about their own defaults
    report = benchmark(args.config, args.cfg_options, settings)
    print(format_report(report))
    if args.json is not None:
        write_json(args.json, report, indent=1)


if __name__ == '__main__':
    run_tool(main)
