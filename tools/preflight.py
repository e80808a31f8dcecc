#!/usr/bin/env python
"""Find what is wrong with a config, its data and its weights before the first step.

python tools/preflight.py configs/small/mask-rcnn_convnext_demo.py
python tools/preflight.py CONFIG --quick                           # what train.py does by itself before every training
python tools/preflight.py CONFIG --html page.html --json found.json --cfg-options data_root=/elsewhere/coco/

Exit code: 0, 1 (warnings, with --strict), 2 (errors). docs/preflight.md describes the checks.
"""

import argparse
import sys

try:
    from backbones.cli import ToolParser, add_precision, parse_run_options, quiet_imports, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--quick', action='store_true', help='without rehearsal, ground truth scoring and pictures')
    parser.add_argument('--strict', action='store_true', help='exit code 1 where there are warnings')
    parser.add_argument('--tables', action='store_true', help='print parameter groups, class counts and the like, too')
    parser.add_argument('--json', metavar='FILE', help='write the report as JSON')
    parser.add_argument('--html', metavar='FILE', help='write the report as a page with pictures')
    parser.add_argument(
        '--seconds', type=float, default=60.0, metavar='S', help='at most this long for the rehearsal; default 60')
    parser.add_argument(
        '--sample', type=int, metavar='N', help='look into N pictures or label maps of each split; default: in the '
        'quick part 500, else all')
    parser.add_argument('--workers', type=int, metavar='N', help='processes that read pictures; default: one per core')
    parser.add_argument(
        '--total-batch', type=int, metavar='N',
        help="images per optimiser step, as for train.py; default: the config's")
    add_precision(parser)
    return parse_run_options(parser)


def main() -> int:
    args = parse_args()
    with quiet_imports():
        from backbones.files import check_writable, write_json
        from backbones.preflight.page import print_report
        from backbones.preflight.run import Settings, preflight

    for option, file in (('--json', args.json), ('--html', args.html)):
        if file is not None:
            check_writable(file, option)
    settings = Settings(
        options=args.cfg_options, launcher=args.launcher, total_batch=args.total_batch, precision=args.precision,
        quick=args.quick, seconds=args.seconds, sample=args.sample, workers=args.workers,
        pictures=args.html is not None)
    report, pictures = preflight(args.config, settings)
    print_report(report, tables=args.tables)
    if args.json is not None:
        write_json(args.json, report.as_dict(), indent=1)
    if args.html is not None:
        from backbones.preflight.html import write_page

        write_page(args.html, report, pictures.samples, pictures.plots)
    for file in (args.json, args.html):
        if file is not None:
            print(f'written: {file}', file=sys.stderr)
    return report.exit_code(args.strict)


if __name__ == '__main__':
    run_tool(main)
