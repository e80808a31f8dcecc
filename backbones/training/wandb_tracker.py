"""Weights & Biases: online where there is a login, else files that `wandb sync` sends."""

from __future__ import annotations

import netrc
import os
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log

from backbones.registry import VISBACKENDS
from backbones.training.trackers import Place, Tracker

SERVER = 'https://api.wandb.ai'  # wandb's default of WANDB_BASE_URL
PATIENCE = 30  # seconds for the server to answer when a run begins
LAST_WAIT = 120  # seconds that a run waits in the end for what is still to be sent; `wandb sync` sends the rest


@VISBACKENDS.register_module()
class WandbVisBackend(Tracker):
    """MMEngine's WandbVisBackend with steps, that never asks for a login and goes on in the same run.

    W&B's own variables (`WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_NAME`, ...) are respected.

    Args:
        save_dir: MMEngine's.
        required: as `Tracker`.
        init_kwargs: arguments of `wandb.init` in place of the defaults here.
    """

    name = 'wandb'

    def __init__(self, save_dir: str, required: bool = False, init_kwargs: dict | None = None) -> None:
        super().__init__(save_dir, required)
        self.init_kwargs = dict(init_kwargs or {})
        self._run: Any = None

    @property
    def experiment(self) -> Any:
        """W&B's run."""
        self._init_env()
        return self._run

    def start(self, place: Place, state: dict[str, Any]) -> None:
        """Begin a run, or go on with the one that `state` names."""
        import wandb

        identity = state.get('id') if isinstance(state.get('id'), str) else uuid.uuid4().hex[:12]
        if not state:
            self.forget()
        place.work_dir.mkdir(parents=True, exist_ok=True)
        defaults = dict(
            project=os.environ.get('WANDB_PROJECT') or 'mmbackbones', dir=str(place.work_dir), id=identity,
            name=os.environ.get('WANDB_NAME') or place.work_dir.resolve().name, resume='allow',
            settings=_settings(wandb.Settings))
        options = {**defaults, **self.init_kwargs}
        mode = options.pop('mode', None) or os.environ.get('WANDB_MODE') or ('online' if has_login() else None)
        why = None if mode else 'no W&B login'
        try:
            self._run = wandb.init(mode=mode or 'offline', **options)
        except Exception as error:
            if mode != 'online':
                raise
            why = f'no connection to W&B ({" ".join(str(error).split())[:160]})'
            self._run = wandb.init(mode='offline', **options)
        self._run.define_metric('iteration')
        self._run.define_metric('*', step_metric='iteration')
        self.remember(id=self._run.id)
        if why:
            append = ' --append' if state else ''
            print_log(f'wandb: {why}, so the run is logged offline; `wandb login`, then `wandb sync{append} '
                      f'{Path(self._run.dir).parent}` sends it', logger='current')
        elif getattr(self._run, 'url', None):
            print_log(f'wandb: {self._run.url}', logger='current')

    def write_config(self, config: Config) -> None:
        """As W&B's config."""
        from backbones.training.run_record import plain

        self._run.config.update(plain(config.to_dict()), allow_val_change=True)

    def write_scalars(self, values: dict[str, float], step: int, kind: str) -> None:
        """Over `iteration`: W&B's own steps only ever grow, and a validation has the step of the training before."""
        self._run.log({**values, 'iteration': step})
        self.mark(kind, step)

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        """As JPEG."""
        import wandb
        from PIL import Image

        self._run.log({name: wandb.Image(Image.fromarray(image), file_type='jpg'), 'iteration': step})

    def finish(self, code: int) -> None:
        """W&B shows how the run ended."""
        self._run.finish(exit_code=code)


def _settings(kind: Any) -> Any:
    """W&B's settings, as far as its version has them."""
    wanted = dict(console='off', silent=True, init_timeout=PATIENCE, login_timeout=PATIENCE, finish_timeout=LAST_WAIT)
    known = getattr(kind, 'model_fields', wanted)
    return kind(**{name: value for name, value in wanted.items() if name in known})


def has_login() -> bool:
    """Whether W&B would find a key without asking for one."""
    if os.environ.get('WANDB_API_KEY') or os.environ.get('WANDB_IDENTITY_TOKEN_FILE'):
        return True
    host = urlsplit(os.environ.get('WANDB_BASE_URL') or SERVER).hostname or ''
    places = [os.environ['NETRC']] if os.environ.get('NETRC') else ['~/.netrc', '~/_netrc']
    for place in places:
        try:
            if host in netrc.netrc(os.path.expanduser(place)).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
