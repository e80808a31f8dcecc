#!/usr/bin/env python
"""Tell whether two prediction sets for the same images differ beyond noise, overall and by class.

python tools/compare.py work_dirs/a work_dirs/b                         # after tools/test.py --details of both
python tools/compare.py a.json b.json --ann data/coco/annotations/instances_val2017.json
python tools/compare.py a.zip b.zip --config configs/small/upernet_vit_demo.py
python tools/compare.py a.zip b.zip --labels data/ade/annotations/validation --first-class 1

The images are drawn anew many times, and both are scored on the same draws: docs/evaluation.md. It ends with exit code
0 whatever the difference; --json FILE has all numbers.
"""

from __future__ import annotations

import argparse

try:
    from backbones.cli import ToolParser, add_overrides, quiet_imports, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    for name in ('first', 'second'):
        parser.add_argument(
            name, metavar=dict(first='A', second='B')[name],
            help='evaluation/ folder or its work folder, COCO results (.json), or label maps (.zip, folder)')
    parser.add_argument('--ann', metavar='FILE', help='annotation file that COCO results are of')
    parser.add_argument('--config', help='config whose test data set label maps are of')
    parser.add_argument('--labels', metavar='FOLDER', help='true label maps, in place of --config')
    parser.add_argument(
        '--first-class', type=int, choices=(0, 1),
        help='with --labels: number of the first class; 1: 0 is ignored, as in ADE20K; 0: 255 is')
    parser.add_argument(
        '--classes', metavar='FILE', help='with --labels: a class name a line; default: a classes.txt near them')
    parser.add_argument(
        '--score', type=float, metavar='T',
        help='threshold of precision, recall and F1; default: where F1 of each is best')
    parser.add_argument('--resamplings', type=int, default=1000, metavar='N', help='of the images; default 1000')
    parser.add_argument('--json', metavar='FILE', help='write all numbers there')
    add_overrides(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with quiet_imports():
        from rich.console import Console

        from backbones.evaluation.compare_files import (
            ONE_TRAINING,
            CompareOptions,
            compare_predictions,
            write_comparison,
        )
        from backbones.evaluation.tables import print_comparison
        from backbones.files import check_writable

    if args.json is not None:
        check_writable(args.json)
    options = CompareOptions(
        args.ann, args.config, args.labels, args.classes, args.first_class, args.score, args.resamplings,
        config_options=args.cfg_options)
    found = compare_predictions(args.first, args.second, options)
    if args.json is not None:
        write_comparison(args.json, found)
    console = Console(highlight=False)
    print_comparison(found, console)
    console.print(ONE_TRAINING, markup=False)


if __name__ == '__main__':
    run_tool(main)
