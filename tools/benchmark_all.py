#!/usr/bin/env python
"""Measure what docs/performance.md shows: backbones, whole models and training steps against their peers.

python tools/benchmark_all.py --quick                                 # what `make bench` does: under ten minutes
python tools/benchmark_all.py --json docs/performance.json            # all of it, about an hour on two cores
python tools/benchmark_all.py --only ViTDet --json docs/performance.json

An existing file keeps the rows that are not measured anew.
"""

import argparse
import json
from pathlib import Path

from backbones.cli import ToolParser, run_tool


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='fewer cases, three pairs of runs each')
    parser.add_argument('--repeats', type=int, help='pairs of runs of each comparison; default 7, with --quick 3')
    parser.add_argument('--only', metavar='TEXT', help='cases with this in "name work size"')
    parser.add_argument('--json', metavar='FILE', help='write the rows, every single time included')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from backbones.benchmark.suite import merged, run_suite
    from backbones.files import check_writable, write_json

    before = {}
    if args.json is not None:
        check_writable(args.json)
        before = json.loads(Path(args.json).read_text()) if Path(args.json).exists() else {}
    report = run_suite(
        Path(__file__).resolve().parents[1], quick=args.quick, only=args.only,
        repeats=args.repeats or (3 if args.quick else 7))
    if args.json is not None:
        write_json(args.json, merged(before, report), indent=1)


if __name__ == '__main__':
    run_tool(main)
