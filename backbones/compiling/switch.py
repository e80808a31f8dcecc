"""Put compiled training into a config: the hook, and batches of few sizes where the images have many."""

from __future__ import annotations

from mmengine.config import Config

from backbones.data.buckets import bucket_sizes
from backbones.image_sizes import image_sizes
from backbones.registry import SCOPE

STEP = 128  # pixels between two sizes: backbones.data.buckets
DIVISORS = dict(DetDataPreprocessor='pad_size_divisor', SegDataPreProcessor='size_divisor')


def compile_training(cfg: Config) -> list[str]:
    """Let a training compile its model, in place.

    Returns:
        Lines for the log.

    Raises:
        ValueError: the sizes of the training images cannot be read off the config.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    preprocessor = cfg.model.get('data_preprocessor') or {}
    name = str(preprocessor.get('type', '')).rpartition('.')[2]
    notes, most = [], {}
    if preprocessor.get('size') is None and preprocessor.get('buckets') is None:
        if name not in DIVISORS:
            notes.append(
                f'--compile: {name or "the data preprocessor"} knows no buckets, so each size of a batch is compiled '
                'for itself, as far as they are few')
        else:
            divisor = preprocessor.get(DIVISORS[name]) or 1
            step = -(-STEP // divisor) * divisor
            sizes = image_sizes(cfg)
            buckets = bucket_sizes(sizes.train, step, divisor, mixed=sizes.batch != sizes.train)
            preprocessor.type, preprocessor.buckets = f'{SCOPE}.{name}', [list(size) for size in buckets]
            most = dict(most=2 * len(buckets))  # the last batch of an epoch may have fewer images
            if len(buckets) > 1:
                notes.append(
                    f'--compile: training batches are padded to {len(buckets)} sizes, up to '
                    f'{max(size[0] for size in buckets)} x {max(size[1] for size in buckets)}')
    hooks.append(dict(type=f'{SCOPE}.CompileHook', **most))
    cfg.custom_hooks = hooks
    return notes
