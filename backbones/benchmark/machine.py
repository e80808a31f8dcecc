"""What the numbers of a report were measured on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = {
    'mmengine': ('onedl-mmengine', 'mmengine'), 'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'), 'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'), 'timm': ('timm',), 'transformers': ('transformers',),
}


def machine(device: torch.device) -> dict[str, Any]:
    """Processor or GPU, threads, load of the last minute, versions of what took part; nothing that names the host."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else _processor()
    return dict(
        device=name, cores=os.cpu_count(), threads=torch.get_num_threads(), load=round(os.getloadavg()[0], 2),
        python=platform.python_version(), torch=torch.__version__,
        packages={name: found for name, names in PACKAGES.items() if (found := _found(names))})


def _processor() -> str:
    try:
        found = re.search(r'^model name\s*:\s*(.+)$', Path('/proc/cpuinfo').read_text(), re.MULTILINE)
    except OSError:
        found = None
    return f'CPU, {found[1].strip() if found else platform.machine()}'


def _found(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
