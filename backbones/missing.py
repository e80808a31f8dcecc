"""What to do about a module that is missing or does not load: one wording for the tools and for the plug-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

EXTRAS = dict(  # of setup.py, and what is imported from them
    det=('mmdet', 'mmengine'), seg=('mmseg',), report=('jinja2', 'plotly'), log=('tensorboard',),
    serve=('multipart', 'python_multipart', 'starlette', 'uvicorn'), trackers=('mlflow', 'wandb'))


class MissingToolboxError(ImportError):
    """A toolbox cannot be imported; the message says how to get it."""


@contextlib.contextmanager
def toolbox_needed() -> Iterator[None]:
    """Add to an ImportError what to do about it.

    Raises:
        MissingToolboxError: in place of the ImportError.
    """
    try:
        yield
    except MissingToolboxError:
        raise
    except ImportError as error:
        raise MissingToolboxError(f'{error}; {how_to_install(error)}', name=error.name) from error


def how_to_install(error: ImportError) -> str:
    """The remedy for `error`."""
    module = (error.name or '').split('.')[0]
    if module == 'mmcv' or 'mmcv._ext' in str(error):
        return (
            'mmcv is missing or came without its compiled ops (pip builds it so when torch is absent from its build '
            'environment): run `make setup` in a checkout, or `python tools/setup/build_mmcv.py` in your environment'
        )
    extra = next((name for name, modules in EXTRAS.items() if module in modules), 'all')
    return f"install what is missing: run `make setup` in a checkout, or `pip install 'mmbackbones[{extra}]'`"
