"""The tables of `configs/*/README.md`, written from the cards."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from backbones.recipes.card import OURS, Card, card_of_file, read_count, title

BEGIN, END = '<!-- recipes -->', '<!-- /recipes -->'
OTHER = 'other data'
ONE_GPU = '-1gpu_'  # in the name of a recipe for one GPU
SCORES = {'COCO': ('box', 'mask'), 'ADE20K': ('mIoU', 'mIoU_ms')}
HEADINGS = {'box': 'box AP', 'mask': 'mask AP', 'mIoU': 'mIoU', 'mIoU_ms': 'multi-scale, flip'}
KEY = (
    'Scores are those of the publications, in percent, not measured here; a dash: none was published. Parameters and '
    'FLOPs in italics are ours, the others are printed in the publication, and a test counts them all; they compare '
    'where the image size behind them is the same. Batch: images per optimiser step and, behind the stroke, per GPU; '
    'on fewer GPUs the total is kept by accumulation.'
)


def is_ours(folder: Path) -> bool:
    """Whether a folder of configs/ is one of the project's, whose README has the tables; else it is a user's own."""
    readme = folder / 'README.md'
    return readme.is_file() and BEGIN in readme.read_text(encoding='utf-8', errors='replace')


def filled(readme: Path) -> str:
    """The text of a folder's README with its tables renewed."""
    text = readme.read_text(encoding='utf-8')
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f'{readme} needs one {BEGIN} and one {END}, between which the tables go')
    before, rest = text.split(BEGIN)
    return before + BEGIN + '\n' + folder_tables(readme.parent) + END + rest.split(END)[1]


def folder_tables(folder: Path) -> str:
    """Tables and notes of every recipe of a folder: detection first, then segmentation."""
    sections, notes = {'COCO': [], 'ADE20K': [], OTHER: []}, []
    for path in folder.glob('*.py'):
        sections[data_of(path)].append((path, card_of_file(path)))
    parts = [textwrap.fill(KEY, 120)]
    for name, recipes in sections.items():
        recipes.sort(key=_order)
        small = [recipe for recipe in recipes if ONE_GPU in recipe[0].stem]
        rest = [recipe for recipe in recipes if recipe not in small]
        for heading, part in ((f'## {name}', rest), (f'### {name} on one GPU', small)):
            if part:
                parts += [heading, _table(part, notes)]
    if notes:
        parts += ['## Notes', '\n'.join(f'{number}. {note}' for number, note in enumerate(notes, 1))]
    return '\n\n'.join(parts) + '\n\n'


def data_of(path: Path) -> str:
    """Data that a recipe is for, by its title."""
    return next((name for name in SCORES if title(path).split(',')[-1].split()[0] == name), OTHER)


def _order(recipe: tuple[Path, Card]) -> tuple[str, float, str]:
    """By method, then by size."""
    path, card = recipe
    return path.name.partition('_')[0], read_count(card.params).value, path.name


def _table(recipes: list[tuple[Path, Card]], notes: list[str]) -> str:
    scores = SCORES.get(data_of(recipes[0][0]), ())
    sizes = {_size(card) for _, card in recipes}
    at = f' {sizes.pop()}' if len(sizes) == 1 else ''  # in the heading where all rows share it
    head = ['recipe', *(HEADINGS[name] for name in scores), 'parameters', f'FLOPs{at}', 'weights', 'lr', 'layer decay',
            'drop path', 'precision', 'batch', 'source', 'note']
    rows = [_row(path, card, scores, notes, bool(at)) for path, card in recipes]
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _size(card: Card) -> str:
    """'at 800 x 1280' of the card's FLOPs."""
    return re.search(r'at \d+ x \d+', card.flops)[0]


def _row(path: Path, card: Card, scores: tuple[str, ...], notes: list[str], same_size: bool) -> list[str]:
    flops = _count(card.flops)
    return [
        f'[{_short_title(path)}]({path.name})',
        *(_score(card, name) for name in scores),
        _count(card.params),
        flops.replace(f' {_size(card)}', '') if same_size else flops,
        f'`{card.init}`' if card.init else 'none',
        f'{card.lr:.0e}'.replace('e-0', 'e-'),
        card.decay.split(',')[0].replace('_wise', '') if card.decay else 'none',
        f'{card.drop_path:g}' + (', frozen' if card.frozen else ''),
        card.precision,
        f'{card.batch} / {card.per_gpu}',
        _source(card),
        _note(card, notes),
    ]


def _short_title(path: Path) -> str:
    """The title without the data, which the heading names."""
    return re.sub(r'(?<=, )ADE20K (?=\d+ x \d+$)|, COCO$', '', title(path))


def _count(text: str) -> str:
    return f'*{text.removesuffix(OURS)}*' if text.endswith(OURS) else text


def _score(card: Card, name: str) -> str:
    score = card.score or {}
    if name == 'mIoU' and 'nearest' in score:
        return f'(nearest {score["nearest"]:g})'
    return str(score[name]) if name in score else '-'


def _source(card: Card) -> str:
    code = f'[code]({card.source})' if card.source else ''
    if card.paper is None:
        return code or 'ours'
    return f'[{card.table}]({card.paper})' + (f', {code}' if code else '')


def _note(card: Card, notes: list[str]) -> str:
    """Number of the card's note; equal notes have one number."""
    if not card.note:
        return ''
    if card.note not in notes:
        notes.append(card.note)
    return str(notes.index(card.note) + 1)


# --- all folders at a glance --------------------------------------------------------------------------------


def overview(configs: Path) -> str:
    """One row per folder, data and method of `configs`: how many recipes there are, and their published scores."""
    groups: dict[tuple[str, str, str], list[Card]] = {}
    for path in sorted(configs.glob('*/*.py')):
        if data_of(path) in SCORES:
            key = (path.parent.name, data_of(path), title(path).partition(',')[0])
            groups.setdefault(key, []).append(card_of_file(path))
    lines = ['| folder | data | model | recipes | with a published score | from, to |',
             '| --- | --- | --- | --- | --- | --- |']
    for (folder, data, model), cards in sorted(groups.items()):
        scored = str(sum(card.score is not None for card in cards))
        link = f'[{folder}](configs/{folder}/README.md)'
        row = [link, data, model, str(len(cards)), scored, _range(cards, data)]
        lines.append('| ' + ' | '.join(row) + ' |')
    return '\n'.join(lines)


def _range(cards: list[Card], data: str) -> str:
    name = SCORES[data][0]
    scores = [card.score[name] for card in cards if card.score and name in card.score]
    if not scores:
        return '-'
    return ' to '.join(map(str, sorted({min(scores), max(scores)}))) + f' {HEADINGS[name]}'
