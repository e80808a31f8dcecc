#!/usr/bin/env python
"""Write the tables of README.md: configs from their docstrings, measured runs from docs/results/*.json.

python tools/update_readme.py [--check]
"""

import argparse
import ast
import json
import re
from pathlib import Path

from backbones.cli import run_tool

ROOT = Path(__file__).resolve().parents[1]


def config_table() -> str:
    """One row per full-size config: model and schedule, published score, file."""
    rows = ['| model, data | published (not ours) | config |', '|---|---|---|']
    for path in sorted([*(ROOT / 'configs/convnext').glob('*.py'), *(ROOT / 'configs/vit').glob('*.py')]):
        first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        what, score = re.fullmatch(r'(.+?)\. Published: (.+)\.', first).groups()
        file = path.relative_to(ROOT)
        rows.append(f'| {what} | {score} | [{path.stem}]({file}) |')
    return '\n'.join(rows)


def results_table() -> str:
    """One row per measured run."""
    rows = ['| run | command | training time | measured | asked |', '|---|---|---|---|---|']
    for path in sorted((ROOT / 'docs/results').glob('*.json')):
        run = json.loads(path.read_text())
        scores = ', '.join(f'{name} {run["metrics"][name]:g}' for name in run['asked'])
        asked = ', '.join(f'{name} >= {value:g}' for name, value in run['asked'].items())
        time = f'{run["train_seconds"] / 60:.0f} min, {run["machine"]}'
        rows.append(f'| {run["what"]} | `{run["command"]}` | {time} | **{scores}** | {asked} |')
    return '\n'.join(rows)


def filled(text: str) -> str:
    """Put the tables between their markers."""
    for name, table in (('configs', config_table()), ('results', results_table())):
        pattern = rf'(<!-- {name} -->\n).*?(<!-- /{name} -->)'
        text, found = re.subn(pattern, lambda match, new=table: f'{match[1]}{new}\n{match[2]}', text, flags=re.S)
        if found != 1:
            raise ValueError(f'README.md needs <!-- {name} --> and <!-- /{name} --> once; they are there {found} times')
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 if README.md is out of date')
    args = parser.parse_args()
    readme = ROOT / 'README.md'
    text = readme.read_text()
    if args.check:
        return int(filled(text) != text)
    readme.write_text(filled(text))
    return 0


if __name__ == '__main__':
    run_tool(main)
