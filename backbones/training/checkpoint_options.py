"""What SafeCheckpointHook can be told, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    if template is not None and (template.count('{}') != 1 or '/' in template or template.startswith('.')):
        raise ValueError(f'filename_tmpl={template!r}; write a file name with one {{}}, such as model_{{}}.pth')
    metrics = list(save_best or []) if isinstance(save_best, list | tuple | None) else [save_best]
    if not all(isinstance(name, str) for name in metrics) or len(set(metrics)) < len(metrics):
        raise ValueError(f'save_best={save_best!r}; give a metric such as coco/bbox_mAP, a list of them, or auto')
    if 'auto' in metrics and len(metrics) > 1:
        raise ValueError(f'save_best={save_best!r}: auto stands alone; it takes the first metric of the validation')
    rules = rule if isinstance(rule, list) else [rule]
    if any(one not in ('greater', 'less', None) for one in rules) or len(rules) not in (1, len(metrics)):
        raise ValueError(f"rule={rule!r}; write 'greater' or 'less', for all metrics or for each of the {len(metrics)}")
