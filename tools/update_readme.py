#!/usr/bin/env python
"""Write what README.md says in numbers: recipes from their cards, measured runs from docs/results/, the demo's
times and scores from docs/demo.json (`work_dirs/demo/summary.json` of a timed `make demo`, and the seconds of both
commands).

python tools/update_readme.py [--check]
"""

import argparse
import json
import re
from pathlib import Path

from backbones.cli import run_tool
from backbones.recipes.tables import overview

ROOT = Path(__file__).resolve().parents[1]


def results_table() -> str:
    """One row per measured run."""
    rows = ['| run | command | training time | measured | aim |', '|---|---|---|---|---|']
    for path in sorted((ROOT / 'docs/results').glob('*.json')):
        run = json.loads(path.read_text())
        scores = ', '.join(f'{name} {_score(name, run["metrics"][name])}' for name in run['aim'])
        aim = ', '.join(f'{name} >= {_score(name, value)}' for name, value in run['aim'].items())
        time = f'{run["train_seconds"] / 60:.0f} min, {run["machine"]}'
        rows.append(f'| {run["what"]} | `{run["command"]}` | {time} | **{scores}** | {aim} |')
    return '\n'.join(rows)


def demo_times() -> str:
    """What the two commands take and what the demo reaches."""
    demo = json.loads((ROOT / 'docs/demo.json').read_text())
    seconds, detection = demo['seconds'], demo['detection']
    scores = (
        f'box AP {detection["bbox_mAP"]:.3f}, mask AP {detection["segm_mAP"]:.3f}, '
        f'mIoU {_score("mIoU", round(100 * demo["segmentation"]["mIoU"], 2))}'
    )
    return (
        f'On {demo["machine"]}, with empty caches and downloads included, `make demo` took\n'
        f'{_clock(seconds["make_demo"])}: {_clock(seconds["setup"])} of set-up (mmcv compiled), '
        f'{_clock(seconds["train_and_test"])} to train and test both models\n({scores}).\n'
        f'After it, `make test` took {_clock(seconds["make_test"])}.'
    )


def _score(name: str, value: float) -> str:
    """IoU and accuracies (given in percent, as mmseg reports them) with their sign, AP as a fraction."""
    return f'{value:g} %' if name in ('mIoU', 'mAcc', 'aAcc') else f'{value:g}'


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


def filled(text: str) -> str:
    """Put the tables between their markers."""
    for name, table in (('configs', overview(ROOT / 'configs')), ('results', results_table()), ('times', demo_times())):
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
