#!/usr/bin/env python
"""What a config costs before it runs: parameters, multiply-adds, memory of a training step, and what makes it fit.

python tools/budget.py configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py --gpu-memory 24G
python tools/budget.py configs/small/upernet_vit_demo.py --size 128x160 --measure 5
python tools/budget.py my_config.py --json budget.json --cfg-options model.backbone.frozen_stages=2
"""

import argparse
import json
import sys
import time
from pathlib import Path

try:
    from backbones.cli import ToolParser, add_overrides, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--gpu-memory', metavar='SIZE', help='of one GPU, such as 24G; shows what makes it fit')
    parser.add_argument('--size', metavar='HxW', help='of the images, in place of what the config makes')
    parser.add_argument(
        '--measure', type=int, default=0, metavar='N', help='time N training steps here, on made-up images')
    parser.add_argument('--json', metavar='FILE', help='write everything, in bytes and single multiply-adds')
    add_overrides(parser)
    return parser.parse_args()


class Progress:
    """A line on a terminal about what is being done, once it takes longer than two seconds."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.shown = False

    def __call__(self, line: str) -> None:
        if sys.stderr.isatty() and time.monotonic() - self.start > 2:
            print(f'\r\033[K{line} ...', end='', file=sys.stderr, flush=True)
            self.shown = True

    def end(self) -> None:
        """Wipe the line."""
        if self.shown:
            print('\r\033[K', end='', file=sys.stderr, flush=True)


def main() -> None:
    args = parse_args()
    from backbones.budget import budget, format_budget, parse_bytes, parse_size
    from backbones.files import check_writable

    gpu_memory = parse_bytes(args.gpu_memory) if args.gpu_memory is not None else None
    size = parse_size(args.size) if args.size is not None else None
    if args.json is not None:
        check_writable(args.json)
    progress = Progress()
    try:
        report = budget(args.config, args.cfg_options, size=size, gpu_memory=gpu_memory, measure=args.measure,
                        progress=progress)
    finally:
        progress.end()
    print(format_budget(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    run_tool(main)
