"""The card of a recipe: what a config claims, as the publication states it, in the config's own `card = dict(...)`."""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mmengine.config import Config, ConfigDict

OURS = ' (ours)'  # behind a number that no publication prints
SCORES = ('box', 'mask', 'mIoU', 'mIoU_ms', 'nearest')
UNITS = {'K': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What one recipe is said to be. `backbones.recipes.facts` derives the same from the config; the two are compared.

    Attributes:
        paper: address of the publication, None for a recipe of ours.
        table: where in it the score stands.
        source: address of the official config or code that the values were read from; None for a recipe of ours.
        init: file, repository or short name of the pretrained weights; None from scratch.
        batch: images per optimiser step, over all GPUs.
        per_gpu: images per GPU and forward pass.
        schedule: length and shape, such as '36 epochs, steps at 27 and 33'.
        warmup: such as '500 iterations from 0.001'; None without.
        lr: base learning rate.
        weight_decay: weight decay of what is decayed.
        no_weight_decay: rule of `backbones.weight_decay`, or the parts of names that are spared; None spares nothing.
        decay: such as 'layer_wise 0.95, 6 layers'; None where every layer learns at one rate.
        drop_path: stochastic depth rate of the last block.
        precision: 'fp32', 'fp16' or 'bf16' of the forward and backward pass.
        clip: largest norm of the gradient; None does not clip.
        ema: momentum of the averaged weights, which are then the evaluated ones; None without.
        frozen: True where the backbone does not learn.
        train: sizes of the training images.
        test: sizes, and how the image is covered.
        params: as printed, '48M'; with ' (ours)' where nobody printed it.
        flops: multiply-adds of one image and its rows and columns, '262G at 800 x 1280'; likewise.
        score: published results by name (`SCORES`) in percent; None where there are none.
        note: what the recipe is based on, and what differs from its source.
    """

    paper: str | None
    table: str | None
    source: str | None
    init: str | None
    batch: int
    per_gpu: int
    schedule: str
    warmup: str | None
    lr: float
    weight_decay: float
    no_weight_decay: str | None
    decay: str | None
    drop_path: float
    precision: str
    train: str
    test: str
    params: str
    flops: str
    score: dict[str, float] | None
    clip: float | None = None
    ema: float | None = None
    frozen: bool = False
    note: str = ''


@dataclass(frozen=True)
class Count:
    """A printed number: `printed` as it stands, its `unit` as a factor, and whether it is ours."""

    printed: str
    unit: float
    ours: bool

    @property
    def value(self) -> float:
        """The number itself."""
        return float(self.printed) * self.unit

    @property
    def decimals(self) -> int:
        """Printed digits behind the point."""
        return len(self.printed.partition('.')[2])


def read_card(cfg: Config) -> Card:
    """The card of a composed config.

    Raises:
        ValueError: there is none, a key is missing or unknown, or a number cannot be read.
    """
    given = cfg.get('card')
    return _checked(given.to_dict() if isinstance(given, ConfigDict) else given, cfg.filename)


def card_of_file(path: str | Path) -> Card:
    """The card as a config file writes it down, without composing the config: tables of many need no toolbox.

    Raises:
        ValueError: as `read_card`, or the card is computed.
    """
    value = _card_in(Path(path).read_text(encoding='utf-8'))
    if value is None:
        return _checked(None, path)
    try:
        given = _literal(value)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f'card of {path} is no plain dict(key=value, ...): {error}') from error
    return _checked(given, path)


def has_card(path: str | Path) -> bool:
    """Whether a config file states a card, right or wrong; one that cannot be read states none."""
    try:
        return _card_in(Path(path).read_text(encoding='utf-8')) is not None
    except (OSError, SyntaxError, ValueError):
        return False


def _card_in(text: str) -> ast.expr | None:
    """What a config assigns to `card`."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == 'card':
            return node.value
    return None


def _literal(node: ast.expr) -> Any:
    """Value of a literal or of a call of `dict`."""
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    return ast.literal_eval(node)


def _checked(given: object, source: object) -> Card:
    """Make a card of `given`, the entry of the config `source`."""
    if not isinstance(given, dict):
        raise ValueError(f'{source} has no card; add card = dict(paper=..., ...) as configs/README.md shows')
    known = {field.name: field for field in fields(Card)}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f'; did you mean {near[0]!r}?' if near else '.'
            raise ValueError(f'card of {source} has the unknown key {key!r}{hint} Allowed are {sorted(known)}')
    missing = [name for name, field in known.items() if field.default is MISSING and name not in given]
    if missing:
        raise ValueError(f'card of {source} lacks {missing}; state each, None where there is nothing to state')
    _check_kinds(given, source)
    card = Card(**given)
    unknown = set(card.score or {}) - set(SCORES)
    if unknown:
        raise ValueError(f'card of {source}: score has the unknown names {sorted(unknown)}; use {list(SCORES)}')
    read_count(card.params)
    read_flops(card.flops)
    return card


def _check_kinds(given: dict[str, Any], source: object) -> None:
    """Refuse values of another kind than the annotations of `Card` state."""
    for name, kind in get_type_hints(Card).items():
        value = given.get(name)
        kinds = tuple(get_origin(choice) or choice for choice in get_args(kind) or (kind,))
        accepted = (*kinds, int) if float in kinds else kinds
        fine = isinstance(value, accepted) and (not isinstance(value, bool) or bool in kinds)
        if name in given and not fine:
            words = ' or '.join('None' if choice is type(None) else choice.__name__ for choice in kinds)
            raise ValueError(f'card of {source}: {name}={value!r} must be {words}')
    for name in ('batch', 'per_gpu'):
        if given[name] < 1:
            raise ValueError(f'card of {source}: {name}={given[name]} must be 1 or more')
    for name, value in (given['score'] or {}).items():
        if not isinstance(value, int | float):
            raise ValueError(f'card of {source}: score has {name}={value!r}, which is no number')


def read_count(text: str) -> Count:
    """Read '48M', '0.8T' or '48M (ours)'."""
    found = re.fullmatch(r'(\d+(?:\.\d+)?)([KMGT])( \(ours\))?', text)
    if found is None:
        raise ValueError(f"{text!r} is no printed count; write it like '48M', '0.8T' or '48M{OURS}'")
    return Count(found[1], UNITS[found[2]], found[3] is not None)


def read_flops(text: str) -> tuple[Count, tuple[int, int]]:
    """Read '262G at 800 x 1280', with ' (ours)' behind it or not: the count, and rows and columns of the image."""
    found = re.fullmatch(r'(\S+) at ([1-9]\d*) x ([1-9]\d*)( \(ours\))?', text)
    if found is None:
        raise ValueError(f"{text!r} is no count of FLOPs; write it like '262G at 800 x 1280'")
    return read_count(found[1] + (found[4] or '')), (int(found[2]), int(found[3]))


def docstring(path: str | Path) -> str:
    """The docstring of a config file: its first line is the title of the recipe."""
    return ast.get_docstring(ast.parse(Path(path).read_text(encoding='utf-8'))) or ''


def title(path: str | Path) -> str:
    """First line of the docstring without the full stop."""
    return docstring(path).partition('\n')[0].strip().rstrip('.')
