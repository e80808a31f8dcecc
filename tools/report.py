#!/usr/bin/env python
"""Write one page about a run: numbers with intervals, curves, errors, pictures, config, environment.

python tools/report.py work_dirs/run                                   # work_dirs/run/report.html
python tools/report.py work_dirs/run --compare work_dirs/other --out page.html

The page is one file that opens anywhere without a server or a network: docs/report.md. Classes, errors, intervals and
pictures need an evaluation of `tools/test.py --details`; without one the page says so, and the exit code is 0.
"""

import argparse

try:
    from backbones.cli import ToolParser, quiet_imports, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('work_dir', metavar='WORK_DIR', help='work folder of a training or a test')
    parser.add_argument('--compare', metavar='OTHER', help='another work folder, shown beside it')
    parser.add_argument('--out', metavar='FILE', help='default: WORK_DIR/report.html')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with quiet_imports():
        from backbones.report.report import print_report

    print_report(args.work_dir, args.compare, args.out)


if __name__ == '__main__':
    run_tool(main)
