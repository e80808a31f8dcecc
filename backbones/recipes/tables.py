"""The tables of `configs/*/README.md`, written from the cards."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from mmengine.config import Config

from backbones.config import is_segmenter
from backbones.recipes.card import OURS, Card, read_card, read_count, title

BEGIN, END = '<!-- recipes -->', '<!-- /recipes -->'
DETECTION = ('box', 'mask')
SEGMENTATION = ('mIoU', 'mIoU_ms')
HEADINGS = {'box': 'box AP', 'mask': 'mask AP', 'mIoU': 'mIoU', 'mIoU_ms': 'multi-scale, flip'}
KEY = (
    'Scores are those of the publications, in percent, not measured here; a dash is a score that nobody published. '
    'Counts in italics are ours, the others are printed in the publication, and all are tested. Batch: images per '
    'optimiser step and, behind the stroke, per GPU; on fewer GPUs the total is kept by accumulation.'
)


def filled(readme: Path) -> str:
    """The text of a folder's README with its tables renewed."""
    text = readme.read_text(encoding='utf-8')
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f'{readme} needs one {BEGIN} and one {END}, between which the tables go')
    before, rest = text.split(BEGIN)
    return before + BEGIN + '\n' + folder_tables(readme.parent) + END + rest.split(END)[1]


def folder_tables(folder: Path) -> str:
    """Tables and notes of every recipe of a folder: detection first, then segmentation."""
    sections, notes = {'COCO': [], 'ADE20K': [], 'other data': []}, []
    for path in folder.glob('*.py'):
        cfg = Config.fromfile(path)
        kind = next((name for name in ('COCO', 'ADE20K') if name in title(path)), 'other data')
        sections[kind].append((path, read_card(cfg), is_segmenter(cfg)))
    parts = [textwrap.fill(KEY, 120)]
    for name, recipes in sections.items():
        if recipes:
            parts += [f'## {name}', _table(sorted(recipes, key=_order), notes)]
    if notes:
        parts += ['## Notes', '\n'.join(f'{number}. {note}' for number, note in enumerate(notes, 1))]
    return '\n\n'.join(parts) + '\n\n'


def _order(recipe: tuple[Path, Card, bool]) -> tuple[str, float, str]:
    """By method, then by size."""
    path, card, _ = recipe
    return path.name.partition('_')[0], read_count(card.params).value, path.name


def _table(recipes: list[tuple[Path, Card, bool]], notes: list[str]) -> str:
    scores = SEGMENTATION if all(segments for _, _, segments in recipes) else DETECTION
    if any(segments for _, _, segments in recipes) and scores is DETECTION:
        scores = ()
    head = ['recipe', 'weights', 'batch', 'lr', 'layer decay', 'drop path', 'precision', 'parameters', 'FLOPs',
            *(HEADINGS[name] for name in scores), 'source', 'note']
    rows = [_row(path, card, scores, notes) for path, card, _ in recipes]
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _row(path: Path, card: Card, scores: tuple[str, ...], notes: list[str]) -> list[str]:
    return [
        f'[{_short_title(path)}]({path.name})',
        f'`{card.init}`' if card.init else 'none',
        f'{card.batch} / {card.per_gpu}',
        f'{card.lr:.0e}'.replace('e-0', 'e-'),
        card.decay.split(',')[0].replace('_wise', '') if card.decay else 'none',
        f'{card.drop_path:g}' + (', frozen' if card.frozen else ''),
        card.precision,
        _count(card.params),
        _count(card.flops),
        *(_score(card, name) for name in scores),
        f'[{card.table}]({card.source or card.paper})' if card.table else 'ours',
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


def _note(card: Card, notes: list[str]) -> str:
    """Number of the card's note; equal notes have one number."""
    if not card.note:
        return ''
    if card.note not in notes:
        notes.append(card.note)
    return str(notes.index(card.note) + 1)
