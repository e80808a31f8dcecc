#!/usr/bin/env python
"""Get a data set ready: COCO 2017 or ADE20K in the layout that the configs expect, or a folder of your own as COCO.

python tools/prepare_data.py coco2017                                 # 20 GB downloaded, 20 GB unpacked; resumes
python tools/prepare_data.py ade20k --from /nfs/archives              # takes the archives, or their parts, from there
python tools/prepare_data.py coco2017 --link /nfs/coco                # links an unpacked copy after counting it
python tools/prepare_data.py --custom my_folder --out data/mine       # COCO, Pascal VOC, YOLO or LabelMe
"""

import argparse
import sys
from pathlib import Path

try:
    from backbones.cli import ToolParser, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('dataset', nargs='?', choices=['coco2017', 'ade20k'], help='what to put below --root')
    parser.add_argument('--root', type=Path, help='folder of all data (default data)')
    parser.add_argument('--from', dest='source', type=Path, metavar='FOLDER', help='where the archives lie already')
    parser.add_argument('--link', type=Path, metavar='FOLDER', help='where an unpacked copy lies, to be linked')
    own = parser.add_argument_group('a folder of your own')
    own.add_argument('--custom', type=Path, metavar='FOLDER', help='pictures with annotations, at any depth')
    own.add_argument('--format', choices=['auto', 'coco', 'voc', 'yolo', 'labelme'], help='of --custom (default auto)')
    own.add_argument('--out', type=Path, metavar='FOLDER', help='folder to make, such as data/mine')
    own.add_argument('--val-share', type=float, metavar='PART', help='of the pictures that validate (default 0.1)')
    own.add_argument('--seed', type=int, help='of that choice (default 0)')
    own.add_argument('--classes', nargs='+', metavar='NAME', help='the classes in their order; others are errors')
    own.add_argument('--copy', action='store_true', default=None, help='copy the pictures instead of linking them')
    parser.add_argument('--no-progress', action='store_true', help='show no bars')
    args = parser.parse_args()
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    """Refuse options that nothing would read."""
    if (args.dataset is None) == (args.custom is None):
        raise ValueError('name one: coco2017, ade20k, or --custom FOLDER --out FOLDER; --help shows examples')
    official = dict(root='--root', source='--from', link='--link')
    own = dict(format='--format', out='--out', val_share='--val-share', seed='--seed', classes='--classes',
               copy='--copy')
    others, said = (own, args.dataset) if args.dataset else (official, '--custom')
    stray = [option for name, option in others.items() if getattr(args, name) is not None]
    if stray:
        raise ValueError(f'{stray[0]} has no meaning with {said}; leave it away')
    if args.source is not None and args.link is not None:
        raise ValueError('--from takes archives and --link an unpacked copy; give one of them')
    if args.custom is not None and args.out is None:
        raise ValueError('--custom needs --out FOLDER, such as --out data/mine')


def main() -> None:
    args = parse_args()
    progress = not args.no_progress and sys.stderr.isatty()
    if args.custom is not None:
        from backbones.data_prepare.custom import convert

        lines = convert(
            args.custom, args.out, form=args.format or 'auto', seed=args.seed or 0, copy=bool(args.copy),
            val_share=0.1 if args.val_share is None else args.val_share, classes=args.classes, progress=progress,
        )
        print('\n'.join(lines))
        return
    from backbones.data_prepare.archives import DATA_SETS
    from backbones.data_prepare.place import prepare

    prepare(DATA_SETS[args.dataset], args.root or Path('data'), source=args.source, link=args.link, progress=progress)


if __name__ == '__main__':
    run_tool(main)
