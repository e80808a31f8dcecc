"""What the scripts of this folder share. requirements/*.txt is the one place where versions are pinned."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class SetupError(Exception):
    """Something the user can act on: the message is one sentence, printed without a traceback."""


def read_requirements(name: str) -> list[str]:
    """The requirement lines of requirements/<name>.txt, without comments and empty lines."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith('#')]


def distribution(requirement: str) -> str:
    """'PyYAML>=6 ; python_version < "4"' -> 'pyyaml': the name as package indexes compare it (PEP 503)."""
    return re.sub(r'[-_.]+', '-', re.match(r'[A-Za-z0-9._-]+', requirement).group()).lower()


def pinned_version(name: str) -> str:
    """The exact version of one of the OpenMMLab forks, for example '2.3.6' for 'onedl-mmcv'."""
    pins = dict(line.split('==') for line in read_requirements('openmmlab'))
    if name not in pins:
        raise ValueError(f'{name!r} is not pinned in requirements/openmmlab.txt, which pins {sorted(pins)}')
    return pins[name]


def cache_folder() -> Path:
    """Where built wheels are kept for later clones, by default ~/.cache/mmbackbones/wheels."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'mmbackbones' / 'wheels'
