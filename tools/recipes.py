#!/usr/bin/env python
"""Check configs against their recipe cards, and write the tables of configs/*/README.md.

python tools/recipes.py check                                                # all configs
python tools/recipes.py check configs/vit/*.py --no-count                    # some, without building the models
python tools/recipes.py tables [--check]                                     # write the tables, or only compare them
"""

import argparse
import sys
import warnings
from pathlib import Path

try:
    from backbones.cli import ToolParser, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    check = commands.add_parser('check', help='report every difference between config and card; exit code 2 if any')
    check.add_argument(
        'configs', nargs='*', type=Path, metavar='CONFIG', help='default: every config of configs/ but your own '
        'that have no card')
    check.add_argument('--no-count', action='store_true', help='do not build the models: no parameters, no FLOPs')
    tables = commands.add_parser('tables', help='write the tables of configs/*/README.md from the cards')
    tables.add_argument('--check', action='store_true', help='only compare; exit code 2 if one is out of date')
    return parser.parse_args()


def check(configs: list[Path], count: bool) -> int:
    """Print one line per config and one per finding."""
    from backbones.recipes.check import findings

    configs, left_out = (configs, []) if configs else held()
    total = 0
    for number, path in enumerate(configs, 1):
        try:
            found = findings(path, count)
        except ValueError as error:  # of one config; the others are checked all the same
            found = [str(error)]
        total += len(found)
        place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        count_so_far = f'{number:{len(str(len(configs)))}}/{len(configs)}'
        print(f'[{count_so_far}] {"differs" if found else "ok":7} {place}', flush=True)
        for text in found:
            print(f'    {text}', flush=True)
    print(f'{len(configs)} config{"s" * (len(configs) != 1)}, {total or "no"} difference{"s" * (total != 1)}')
    if left_out:
        names = ', '.join(str(path.relative_to(ROOT)) for path in left_out)
        print(f'left out, without a card in a folder of your own: {names}')
    return 2 if total else 0


def leaves() -> list[Path]:
    """Every config that is no fragment."""
    return sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_')


def held() -> tuple[list[Path], list[Path]]:
    """The configs that are held against a card: those of the project and those that have one; and the others."""
    from backbones.recipes.card import has_card
    from backbones.recipes.tables import is_ours

    ours = {folder for folder in {path.parent for path in leaves()} if is_ours(folder)}
    wanted = [path for path in leaves() if path.parent in ours or has_card(path)]
    return wanted, [path for path in leaves() if path not in wanted]


def tables(compare: bool) -> int:
    """Renew the README of every folder of configs, or name those that are out of date."""
    from backbones.recipes.tables import filled, is_ours

    stale = 0
    for folder in sorted({path.parent for path in leaves()}):
        readme = folder / 'README.md'
        if not is_ours(folder):
            continue
        text = filled(readme)
        if text == readme.read_text(encoding='utf-8'):
            continue
        stale += 1
        if compare:
            print(f'{readme.relative_to(ROOT)} is out of date; run python tools/recipes.py tables', file=sys.stderr)
        else:
            readme.write_text(text, encoding='utf-8')
            print(f'wrote {readme.relative_to(ROOT)}')
    if not stale:
        print('the tables are those of the cards')
    return 2 if compare and stale else 0


def main() -> int:
    args = parse_args()
    warnings.filterwarnings('ignore', module='mmseg')  # of losses, about their defaults
    return tables(args.check) if args.command == 'tables' else check(args.configs, not args.no_count)


if __name__ == '__main__':
    run_tool(main)
