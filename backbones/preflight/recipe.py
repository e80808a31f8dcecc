"""The config as it will run against the card of its recipe: batch, drop path, warm-up and the rest."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from backbones.findings import Finding, Outcome
from backbones.recipes.card import Card, read_card
from backbones.recipes.check import fact_findings

# What a machine or a user decides; what is said by the checks of the precision and of the weights.
LEFT_OUT = ('per_gpu', 'precision', 'init')
WEIGHTY = {
    'batch': 'the learning rate belongs to that batch; keep the total (it is met on fewer GPUs by accumulation), or '
             'choose optim_wrapper.optimizer.lr for this one',
    'drop_path': 'set model.backbone.drop_path_rate to that of the card, or correct the card',
}


FAR = 2.0  # times the card's learning rate, or less than its inverse: what scaling it with a batch gives
FAR_REMEDY = ('keep that of the card: the total batch is the same on any number of GPUs, by accumulation; if it is '
              'meant, say so in the card')


def images_per_step(runner: Runner) -> int:
    """Images of one optimiser step over all processes, as the built run has it."""
    loader = runner.train_loop.dataloader
    size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None) or 1
    return get_world_size() * size * getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def check_recipe(runner: Runner) -> Outcome:
    """Hold the run against the card of its config, where it has one."""
    cfg, batch = runner.cfg, images_per_step(runner)
    outcome = Outcome('recipe', f'{batch} image{"" if batch == 1 else "s"} per optimiser step',
                      figures=dict(images_per_step=batch))
    if not isinstance(cfg.get('card'), Mapping):
        outcome.summary += '; the config has no card to compare with'
        return outcome
    try:
        card = read_card(cfg)
    except ValueError as error:
        what, _, remedy = str(error).rpartition('; ')
        outcome.findings.append(Finding('warning', 'card', what or remedy, remedy if what else '', field='card'))
        return outcome
    outcome.findings = card_findings(cfg, card, batch)
    found = len(outcome.findings)
    same = f'{found} difference{"s" * (found > 1)} from the card' if found else 'as the card says'
    outcome.summary += f'; {same}'
    return outcome


def card_findings(cfg: Config, card: Card, batch: int) -> list[Finding]:
    """What the run does otherwise than its card says: a warning for what changes the result unseen, else a note."""
    found = []
    for text in fact_findings(cfg, card):
        name, _, rest = text.partition(': ')
        what = rest.partition('; ')[0]
        if name in LEFT_OUT or name == 'batch':
            continue
        if name in WEIGHTY:
            found.append(Finding('warning', 'other than the card', f'{name}: {what}', WEIGHTY[name],
                                 field=f'card.{name}'))
        elif name == 'lr' and batch == card.batch and _is_far(cfg, card):
            found.append(Finding('warning', 'learning rate of another batch', f'{name}: {what}, with the same images '
                                 'per optimiser step', FAR_REMEDY, field='optim_wrapper.optimizer.lr'))
        elif hasattr(card, name):
            found.append(Finding('note', 'other than the card', f'{name}: {what}', field=f'card.{name}'))
    if batch != card.batch:
        found.insert(0, Finding(
            'warning', 'other batch than the card',
            f'an optimiser step has {batch} images, and the card of the recipe says {card.batch}', WEIGHTY['batch'],
            field='total_batch', value=batch))
    return found


def _is_far(cfg: Config, card: Card) -> bool:
    """Whether the learning rate is another than the card's by the factor of another batch."""
    given, said = (cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('lr'), card.lr
    numbers = all(isinstance(value, int | float) and value > 0 for value in (given, said))
    return numbers and max(given / said, said / given) >= FAR
