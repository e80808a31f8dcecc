#!/usr/bin/env python
"""Look into checkpoints, check them against a config, convert them; no training.

python tools/weights.py inspect FILE [--json]
python tools/weights.py check configs/vit/mask-rcnn_vitdet-b-mae_100e_coco.py FILE
python tools/weights.py convert FILE OUT --to hf
python tools/weights.py list
"""

import argparse

try:
    from backbones.cli import ToolParser, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    inspect = commands.add_parser('inspect', help='layout, architecture, parameters, dtypes, positions of a file')
    inspect.add_argument('file', help='path, address or name of a checkpoint')
    inspect.add_argument('--json', action='store_true', help='for programs')
    check = commands.add_parser('check', help='what a config would take from a file')
    check.add_argument('config', help='path of the config')
    check.add_argument('file', help='path, address or name of a checkpoint')
    convert = commands.add_parser('convert', help='the backbone of a file in the layout of another code base')
    convert.add_argument('file', help='path, address or name of a checkpoint; .npz too')
    convert.add_argument('out', help='new file; .safetensors, or anything else for torch.save')
    convert.add_argument('--to', required=True, help='native, timm, hf, torchvision, mmpretrain or official')
    commands.add_parser('list', help='the short names that init_cfg and this tool understand')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from backbones import inspection

    if args.command == 'inspect':
        report = inspection.inspect_file(args.file)
        print(inspection.to_json(report) if args.json else inspection.format_report(report))
    elif args.command == 'check':
        print(inspection.check_file(args.config, args.file))
    elif args.command == 'convert':
        print(inspection.convert_file(args.file, args.out, args.to))
    else:
        print(inspection.format_index())


if __name__ == '__main__':
    run_tool(main)
