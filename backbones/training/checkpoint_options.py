"""What SafeCheckpointHook can be told, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backbones.checkpoints.store import NAME

EXPORTS = ('best', 'last', 'all')
PUBLISHED = ('meta', 'state_dict')


def check_options(
    interval: Any,
    export: Sequence[str],
    on_error: str,
    published: Sequence[str],
    template: str | None,
    backend: Any,
    save_best: Any,
    rule: Any,
    keep: Any,
    out_dir: Any,
    begin: Any,
) -> None:
    """Refuse what the hook cannot do.

    Raises:
        ValueError: one sentence with the option and what it may be.
    """
    if interval != 'validation' and (isinstance(interval, bool) or not isinstance(interval, int) or interval == 0):
        raise ValueError(
            f"interval={interval!r}; give epochs or iterations, -1 for the end of the run only, or 'validation'"
        )
    if wrong := [name for name in export if name not in EXPORTS]:
        raise ValueError(f'export={wrong[0]!r}; choose among {", ".join(EXPORTS)}, or () for none')
    if on_error not in ('continue', 'stop'):
        raise ValueError(f"on_error={on_error!r}; choose 'continue' or 'stop'")
    if wrong := [key for key in published if key not in PUBLISHED]:
        raise ValueError(f'published_keys has {wrong[0]!r}; exported files hold {" and ".join(PUBLISHED)}')
    if backend is not None:
        raise ValueError(
            'checkpoints are written to local or mounted folders only; leave file_client_args and backend_args out, '
            'and copy finished ones to other stores'
        )
    if template is not None and not _names_files(template):
        raise ValueError(
            f'filename_tmpl={template!r}; write a file name with one {{}} for the number, such as model_{{}}.pth or '
            'model_{:06d}.pth'
        )
    if type(keep) is not int:
        raise ValueError(f'max_keep_ckpts={keep!r}; give a number of checkpoints, -1 to keep all')
    if type(begin) is not int or begin < 0:
        raise ValueError(f'save_begin={begin!r}; give the epoch or iteration to begin with, 0 or more')
    if out_dir is not None and not isinstance(out_dir, str | Path):
        raise ValueError(f'out_dir={out_dir!r}; give the path of a folder, or leave it out for the work folder')
    metrics = list(save_best or []) if isinstance(save_best, list | tuple | None) else [save_best]
    if not all(isinstance(name, str) for name in metrics) or len(set(metrics)) < len(metrics):
        raise ValueError(f'save_best={save_best!r}; give a metric such as coco/bbox_mAP, a list of them, or auto')
    if 'auto' in metrics and len(metrics) > 1:
        raise ValueError(f'save_best={save_best!r}: auto stands alone; it takes the first metric of the validation')
    rules = rule if isinstance(rule, list) else [rule]
    if any(one not in ('greater', 'less', None) for one in rules) or len(rules) not in (1, len(metrics)):
        raise ValueError(f"rule={rule!r}; write 'greater' or 'less', for all metrics or for each of the {len(metrics)}")


@contextmanager
def infer_rules(save_best: Any) -> Iterator[None]:
    """Around MMEngine's choice between 'greater' and 'less': let its complaint name the option.

    Raises:
        ValueError: the name of a metric does not say which is better.
    """
    try:
        yield
    except ValueError as error:
        if 'Cannot infer the rule' not in str(error):
            raise
        raise ValueError(
            f"save_best={save_best}: whether more or less of that is better does not show in its name; write "
            "rule='greater' or rule='less'"
        ) from error


def finite(value: Any) -> float | None:
    """A score as a finite number, if it is one."""
    try:
        return float(value) if math.isfinite(value) else None
    except (TypeError, ValueError):
        return None


def _names_files(template: Any) -> bool:
    """Whether each number gives a file name of its own, and none that means something else in the folder."""
    if not isinstance(template, str):
        return False
    try:
        names = [template.format(number) for number in (1, 2, 1234567, 1234568)]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError):
        return False
    return len(set(names)) == len(names) and all(
        name.isprintable() and len(name) < 200 and '/' not in name and not name.startswith('.')
        and not NAME.fullmatch(name) for name in names)
