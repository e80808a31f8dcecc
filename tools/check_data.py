#!/usr/bin/env python
"""What is wrong with a data set, before anything is trained: COCO's annotation files, ADE20K's label maps, or both.

python tools/check_data.py data/coco --sample 500
python tools/check_data.py my_data --json findings.json
python tools/check_data.py my_data --fix my_data_repaired
"""

import argparse
import json
import os
import sys

try:
    from backbones.cli import ToolParser, quiet_imports, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('root', help='folder of the data set; data/README.md shows the layouts')
    parser.add_argument('--json', metavar='FILE', help='write all findings as a list')
    parser.add_argument('--fix', metavar='OUT', help='write a repaired copy to this new folder')
    parser.add_argument(
        '--sample', type=int, metavar='N', help='look at N pictures and label maps of each split; default: all')
    parser.add_argument('--workers', type=int, metavar='N', help='processes; default: one per core')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='the classes that the data set should have')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    with quiet_imports():
        from rich.console import Console

        from backbones.data_check.check import check_root, check_sample
        from backbones.data_check.looking import Looker
        from backbones.data_check.page import print_page
        from backbones.data_check.remembered import memory_file
        from backbones.files import check_writable, write_bytes
        from backbones.findings import exit_code

    check_sample(args.sample)
    if not os.path.isdir(args.root):
        raise ValueError(f'the folder {args.root!r} does not exist, or is none; give the folder of a data set')
    looker = Looker(args.workers, memory_file())
    if args.json is not None:
        check_writable(args.json)
    if args.fix is not None:
        from backbones.data_check.repair import check_out

        check_out(args.root, args.fix)
    outcomes = check_root(args.root, sample=args.sample, classes=args.classes, looker=looker)
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    if args.json is not None:
        text = json.dumps([finding.as_dict() for finding in findings], indent=1, allow_nan=False)
        write_bytes(args.json, (text + '\n').encode())
    encoding = (sys.stdout.encoding or 'ascii').lower()
    if encoding not in ('utf-8', 'utf8'):
        sys.stdout.reconfigure(errors='replace')
    print_page(outcomes, Console(highlight=False), root=args.root)
    if args.fix is not None:
        _fix(args.root, args.fix, looker)
    return exit_code(findings)


def _fix(root: str, out: str, looker: object) -> None:
    from backbones.data.files import shown
    from backbones.data_check.repair import repair_root

    done, left = repair_root(root, out, looker)
    print(f'\n{shown(out)}: a copy of {shown(root)}')
    for title, lines in (('repaired', done), ('left alone', left)):
        print(f'{title}: {len(lines)}')
        for line in lines:
            print(f'  {shown(line)}')


if __name__ == '__main__':
    run_tool(main)
