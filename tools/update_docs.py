#!/usr/bin/env python
"""Write what README.md and docs/*.md say in numbers, from the cards of the recipes and the measurements in docs/.

python tools/update_docs.py [--check]

Whoever measures anew runs the tool that measures (tools/benchmark_*.py, most with `--out docs/NAME.json`), then this.
A page takes numbers in two ways, both invisible where Markdown is shown:

    <!-- memory -->                  a block, alone on its lines: the function of that name in BLOCKS writes what is
    <!-- /memory -->                 between; any page may hold it

    waits <!-- f checkpoints.stall_seconds .2f -->0.35<!-- /f --> s       a figure, in a sentence or a cell of a table

A figure is `f`, FILE.KEY.KEY... of docs/FILE.json, and a format. Keys may hold spaces and dots; items of a list count
from 0. `/1e6` or `*100` behind the last key divides or multiplies. Formats are Python's (`.2f`, `d`, `,d`, `s`), and
`clock`, which makes `7 min 38 s` of seconds. No line begins with a figure: Markdown would show it as raw HTML; nor does
one stand in `code`.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backbones.cli import ToolParser, run_tool
from backbones.recipes.card import title
from backbones.recipes.tables import overview

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'

BLOCK = re.compile(r'^<!-- ([a-z_]+) -->\n(.*?)^<!-- /\1 -->$', re.S | re.M)
FIGURE = re.compile(r'<!-- f ([^<>\n]+) (\S+) -->([^<\n]*)<!-- /f -->')
OPENS_LINE = re.compile(r'^[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)*<!-- f [^\n]*', re.M)
WORK = dict(backbone='backbone', inference='inference', train='training step')
STRAY = re.compile(r'<!--\s*(?:/?[\w-]+|f\s[^\n]*?)\s*-->')  # half a pair, or a slip of the pen
SCALE = re.compile(r'(.*[^*/])([*/])(\d[\d.]*(?:e\d+)?)')


# --- markers --------------------------------------------------------------------------------------


def filled(text: str, page: str, blocks: Mapping[str, Callable[[], str]], folder: Path) -> str:
    """Renew all blocks and figures of a page.

    Args:
        text: the page as it is.
        page: its name, for messages.
        blocks: what writes each block.
        folder: where the JSON files lie.

    Raises:
        ValueError: a marker is unknown, lacks its partner or opens a line, or a figure has no such value or format.
    """
    rest = BLOCK.sub('', text)
    if opening := OPENS_LINE.search(rest):
        raise ValueError(f'{page}: the line {opening[0][:70]!r} begins with a figure and would be shown as raw HTML; '
                         'move the line break so that a word stands before it')
    if stray := STRAY.search(FIGURE.sub('', rest)):
        raise ValueError(f'{page}: {stray[0]} has no partner; a block is <!-- NAME --> and <!-- /NAME -->, each alone '
                         'on its line, a figure <!-- f FILE.KEY FORMAT -->0<!-- /f --> on one line')

    def block(match: re.Match) -> str:
        name = match[1]
        if name not in blocks:
            raise ValueError(f'{page}: nothing writes the block <!-- {name} -->; known are {", ".join(sorted(blocks))}')
        return f'<!-- {name} -->\n{blocks[name]()}\n<!-- /{name} -->'

    def inline(match: re.Match) -> str:
        return f'<!-- f {match[1]} {match[2]} -->{figure(match[1], match[2], page, folder)}<!-- /f -->'

    return BLOCK.sub(block, FIGURE.sub(inline, text))


def figure(path: str, style: str, page: str, folder: Path) -> str:
    """One value of a JSON file as text: `figure('checkpoints.stall_relative*100', '.0f', ...)`."""
    scale = SCALE.fullmatch(path)
    name, _, keys = (scale[1] if scale else path).partition('.')
    file = folder / f'{name}.json'
    if not file.is_file():
        raise ValueError(f'{page}: figure {path!r}: there is no docs/{name}.json; run the tool that measures it')
    value = _look_up(_read(file), keys, f'{page}: figure {path!r}', file.name)
    try:
        if scale:
            value = value * float(scale[3]) if scale[2] == '*' else value / float(scale[3])
        return _clock(value) if style == 'clock' else format(value, style)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f'{page}: figure {path!r}: {value!r} cannot be written as {style!r} ({error})') from error


def _look_up(value: Any, keys: str, where: str, file: str) -> Any:
    """Follow the keys; one that holds dots itself is found as the longest that fits."""
    rest = keys.split('.')
    while rest:
        if isinstance(value, list):
            value = {str(number): item for number, item in enumerate(value)}
        table = value if isinstance(value, dict) else {}
        heads = ('.'.join(rest[:size]) for size in range(len(rest), 0, -1))
        head = next((head for head in heads if head in table), None)
        if head is None:
            there = ', '.join(table) if table else f'only the value {value!r}'
            raise ValueError(f'{where}: {file} has no {".".join(rest)!r} there; it has {there}')
        value, rest = table[head], rest[head.count('.') + 1:]
    if isinstance(value, dict | list):
        raise ValueError(f'{where}: this is a whole {type(value).__name__}; name one value in it')
    return value


@functools.cache
def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding='utf-8'))


# --- blocks ---------------------------------------------------------------------------------------


def configs() -> str:
    """Overview of the recipes."""
    return overview(ROOT / 'configs')


def results() -> str:
    """One row per measured run."""
    rows = []
    for path in sorted((DOCS / 'results').glob('*.json')):
        run = _read(path)
        scores = ', '.join(f'{name} {_score(name, run["metrics"][name])}' for name in run['aim'])
        aim = ', '.join(f'{name} >= {_score(name, value)}' for name, value in run['aim'].items())
        time = f'{run["train_seconds"] / 60:.0f} min, {run["machine"]}'
        rows.append((run['what'], f'`{run["command"]}`', time, f'**{scores}**', aim))
    return _table(('run', 'command', 'training time', 'measured', 'aim'), rows)


def times() -> str:
    """What the two commands take and what the demo reaches.

    docs/demo.json is `work_dirs/demo/summary.json` of a timed `make demo`, and the seconds of both commands.
    """
    demo = _read(DOCS / 'demo.json')
    seconds, detection = demo['seconds'], demo['detection']
    scores = (
        f'box AP {detection["bbox_mAP"]:.3f}, mask AP {detection["segm_mAP"]:.3f}, '
        f'mIoU {_score("mIoU", round(100 * demo["segmentation"]["mIoU"], 2))}'
    )
    return (
        f'On {demo["machine"]}, with empty caches and downloads included, `make demo` took\n'
        f'{_clock(seconds["make_demo"])}: {_clock(seconds["setup"])} of set-up (mmcv compiled), '
        f'{_clock(seconds["train_and_test"])} to train and test both models\n({scores}).\n'
        'The evaluation in detail and the two reports, added since, take about one minute more.\n'
        f'After it, `make test` took {_clock(seconds["make_test"])}, with other work on the machine.'
    )


def memory() -> str:
    """The memory model against measured steps."""
    result, rows = _read(DOCS / 'memory.json'), []
    for case in result['cases']:
        name = case['case'].split(', 2 images')[0].removesuffix(', bf16')
        beyond = (case['model'] - case['static']) / (case['measured'] - case['static'])
        rows.append((
            name, ' x '.join(map(str, case['size'])), case['images'], case['precision'],
            f'{case["measured"] / 1e6:.0f} MB', f'{case["model"] / 1e6:.0f} MB',
            f'{case["model"] / case["measured"]:.3f}', f'{beyond:.3f}'))
    head = ('model', 'image', 'N', 'precision', 'measured', 'model', 'ratio', 'without weights and optimiser')
    return f'{_table(head, rows)}\n\n{result["device"]}, torch {result["torch"]}.'


def published_memory() -> str:
    """The memory model against the peaks that others published."""
    rows = [
        (title(ROOT / case['config']), f'[{case["source"]}]({case["url"]})', case['images'],
         f'{case["published_gb"]:.1f} GB', f'{case["peak"] / 2**30:.1f} GiB', f'{case["needed"] / 2**30:.1f} GiB')
        for case in _read(DOCS / 'published_memory.json')['cases'].values()]
    return _table(('recipe', 'published by', 'images per GPU', 'published', 'model', 'with the surcharge'), rows)


def annotations() -> str:
    """Loading a COCO file."""
    names = {'json.load': '`json.load`', 'load and check': '`load_coco`: load and check',
             'load, checked before': '`load_coco`, checked before', 'check alone': 'the checks alone'}
    rows = []
    for name, row in _read(DOCS / 'annotations.json')['rows'].items():
        peak = f'{row["memory_mib"]:.0f}' if row['memory_mib'] else 'below the peak of loading'
        rows.append((names[name], f'{row["seconds"]:.1f}', peak))
    return _table(('', 'seconds', 'peak memory (MiB)'), rows)


def layouts() -> str:
    """Every reference file loaded, its features held against those of its source."""
    rows = []
    for name, row in _read(DOCS / 'layouts.json')['references'].items():
        count = row['filled'] + (f' (computed: {", ".join(row["fresh"])})' if row['fresh'] else '')
        rows.append((f'{name} (`{row["file"]}`)', row['source'], row['layout'], count, f'{row["error"]:.0e}',
                     f'{row["tolerance"]:g}'))
    return _table(('reference', 'source', 'recognised as', 'filled', 'largest feature error', 'tolerance'), rows)


def performance() -> str:
    """docs/performance.md: ours against the peers."""
    report = _read(DOCS / 'performance.json')
    rows = []
    for row in report['rows']:
        h, w = row['size']
        aim = '' if row['target'] is None else f'{row["target"]:g} ' + ('✓' if row['ratio'] >= row['target'] else '✗')
        rows.append((
            row['name'], WORK[row['what']], f'{row["batch"]} x {h} x {w}', row['ours'], row['against'],
            f'{row["ours_ms"] / 1000:.2f}', f'{row["peer_ms"] / 1000:.2f}', f'**{row["ratio"]:.2f}**',
            f'{row["ratio_25"]:.2f} to {row["ratio_75"]:.2f}', aim, f'{row["max_rel"]:.0e}',
            f'{100 * row["share_of_peak"]:.0f} %'))
    head = ('model', 'work', 'images', 'ours in', 'against', 'ours, s', 'theirs, s', 'times as fast', 'quartiles',
            'aim', 'difference', 'of peak')
    return _table(head, rows)


def speed() -> str:
    """README: whole models against stock ones, in one sentence."""
    rows = {(row['name'], row['what']): row for row in _read(DOCS / 'performance.json')['rows']
            if (row['ours'], row['against']) == ('bf16', 'stock')}
    parts = [f'{name} {rows[name, "inference"]["ratio"]:.1f} and {rows[name, "train"]["ratio"]:.1f} times'
             for name in ('Mask R-CNN ConvNeXt-T', 'UperNet ConvNeXt-T')]
    return ('Inference and a training step on a CPU, against all of mmdet or mmseg as it is shipped: '
            f'{" and ".join(parts)} as fast.')


def tiles() -> str:
    """docs/predict.md: ways to merge the detections of tiles."""
    result = _read(DOCS / 'tiles.json')
    alone = f'(the pictures one by one: {result["alone"]:.3f})'
    names = {('mosaics', False): f'{{number}} mosaics of {result["each"]} pictures, tiles only {alone}',
             ('mosaics', True): 'the same, and the whole',
             ('enlarged', True): '{number} pictures enlarged twice, tiles and the whole'}
    rows = []
    for row in result['rows']:
        best = max(row['ap'].values())
        scores = [f'**{value:.3f}**' if value == best else f'{value:.3f}' for value in (
            row['ap'][way] for way in ('nms_iou', 'nms_ios', 'greedynmm_ios', 'ours'))]
        name = names[row['pictures'], row['whole']]
        rows.append((name.format(number=row['number']), *scores))
    what = f'pictures, tiles of {"x".join(map(str, result["tile"]))}, overlap {result["overlap"]:g}'
    return _table((what, 'NMS, IoU', 'NMS, IoS', 'GREEDYNMM, IoS', 'here'), rows)


BLOCKS = {block.__name__: block for block in (
    configs, results, times, memory, published_memory, annotations, layouts, performance, speed, tiles)}


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [f'| {" | ".join(map(str, row))} |' for row in (head, *rows)]
    return '\n'.join([lines[0].replace('|  |', '| |'), f'|{"---|" * len(head)}', *lines[1:]])


def _score(name: str, value: float) -> str:
    """IoU and accuracies (given in percent, as mmseg reports them) with their sign, AP as a fraction."""
    return f'{value:g} %' if name in ('mIoU', 'mAcc', 'aAcc') else f'{value:g}'


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 120:
        return f'{minutes // 60} h {minutes % 60:02d} min'
    return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


# --- pages ----------------------------------------------------------------------------------------


def changed_pages() -> dict[Path, str]:
    """The new text of each page that is out of date."""
    pages = {path: path.read_text(encoding='utf-8') for path in (ROOT / 'README.md', *sorted(DOCS.glob('*.md')))}
    held = {match[1] for text in pages.values() for match in BLOCK.finditer(text)}
    if missing := sorted(set(BLOCKS) - held):
        raise ValueError(
            f'no page holds the block <!-- {missing[0]} -->; put it and <!-- /{missing[0]} --> back, or take its '
            'function out of BLOCKS')
    new = {path: filled(text, path.name, BLOCKS, DOCS) for path, text in pages.items()}
    return {path: new[path] for path, text in pages.items() if new[path] != text}


def main() -> int:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 if a page is out of date')
    args = parser.parse_args()
    changed = changed_pages()  # of all pages before one is written
    for path, text in changed.items():
        name = path.relative_to(ROOT)
        if args.check:
            lines = zip(path.read_text(encoding='utf-8').split('\n'), text.split('\n'), strict=False)
            line = next(number for number, (old, new) in enumerate(lines, 1) if old != new)
            print(f'{name}: out of date from line {line} on; run python tools/update_docs.py', file=sys.stderr)
        else:
            path.write_text(text, encoding='utf-8')
            print(f'{name} renewed')
    return int(args.check and bool(changed))


if __name__ == '__main__':
    run_tool(main)
