"""A model's config out of its checkpoint, and which checkpoint of a work folder; neither runs code of the file.

A config from a checkpoint is foreign data. MMEngine builds whatever a `type` names, if need be by importing it, and the
toolboxes read files that arguments name (pickles among them). So of such a config only what a prediction needs is
taken, each `type` must be a registered class, and each text a plain word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, TASK_UTILS, TRANSFORMS, Registry

from backbones.checkpoints import is_checkpoint, list_checkpoints, newest_valid, read_best
from backbones.checkpoints.export import exported_meta
from backbones.checkpoints.stored_config import NoConfig, unpacked
from backbones.data.files import IMAGE_SUFFIXES
from backbones.missing import toolbox_needed
from backbones.registry import SCOPE
from backbones.weights.load import local_file
from backbones.weights.read import file_kind, read_file
from backbones.weights.sources import SUFFIXES, resolve

SCOPES = (SCOPE, 'mmdet', 'mmseg', 'mmengine')
UNREGISTERED = {'nms', 'soft_nms', 'RoIAlign', 'RoIPool'}  # names of mmcv.ops, looked up there
TRAINING_ONLY = ('init_cfg', 'pretrained', 'class_weight', 'backend_args', 'file_client_args')
# mmcv evaluates the name of an NMS (mmcv/ops/nms.py), mmdet that of a warp: a word does nothing then.
WORD = re.compile(r'[\w.,:;=+ -]*')
FILE = re.compile(r'\.(py|pkl|pickle|pth|pt|bin|npy|npz|json|ya?ml|txt)$', re.I)
GIVE = 'give the config of its run, too'
IN_PREDICT, IN_PYTHON = 'tools/predict.py CONFIG CHECKPOINT ...', 'load_model(CONFIG, CHECKPOINT)'
NUMBER = re.compile(r'(\d+)\D*$')


def config_of_checkpoint(checkpoint: str | Path) -> tuple[Config, Config]:
    """Read the config that a checkpoint holds.

    Returns:
        What a prediction needs of it, safe to be built; and the whole of it, to be looked at only.

    Raises:
        ValueError: the file cannot be read, holds no config, or one that names anything but registered classes.
    """
    try:
        stored = unpacked(_meta(checkpoint))
        config = safe_config(stored)
        object.__setattr__(config, '_filename', f'in {checkpoint}')  # for messages; MMEngine would open the file
        return config, _shown(stored)
    except NoConfig as error:
        raise ValueError(f'checkpoint {checkpoint} {error}; {GIVE} ({IN_PREDICT}, {IN_PYTHON})') from error


def classes_of_checkpoint(checkpoint: str | Path) -> tuple[str, ...]:
    """The class names that a checkpoint holds; none if it holds none.

    Raises:
        ValueError: it cannot be read.
    """
    found = _meta(checkpoint).get('dataset_meta')
    return tuple((found.get('classes') if isinstance(found, Mapping) else None) or ())


def _meta(checkpoint: str | Path) -> Mapping[str, Any]:
    path = Path(checkpoint)
    if not is_checkpoint(path):
        path = local_file(checkpoint)
        if path.is_file() and file_kind(path) == 'torch' and (meta := exported_meta(path)):
            return meta  # without a look at the weights
    content = read_file(path)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _shown(stored: Mapping[str, Any]) -> Config:
    """The whole config; what MMEngine keeps for itself and what is no name is left out."""
    reserved = ('filename', 'text', 'pretty_text', 'env_variables')
    return Config({key: value for key, value in stored.items() if key not in reserved})


def safe_config(stored: Mapping[str, Any]) -> Config:
    """What a prediction needs of a config that somebody wrote into a file.

    Raises:
        NoConfig: a part is missing, is no registered class, or has an argument that could name a file or be code.
    """
    scope = stored.get('default_scope', 'mmengine')
    if scope not in SCOPES:
        raise NoConfig(f'holds a config of default_scope={str(scope)[:40]!r}, and only those of {", ".join(SCOPES)} '
                       'are known')
    model = _without_training(stored['model'])
    pipeline = _without_training(_pipeline(stored))
    with toolbox_needed():
        _check(model, 'model', scope, (MODELS, TASK_UTILS))
        _check(pipeline, 'test_dataloader.dataset.pipeline', scope, (TRANSFORMS,))
    segments = 'decode_head' in model
    precision = stored.get('precision')
    return Config(dict(
        default_scope=scope, model=model, test_dataloader=dict(dataset=dict(pipeline=pipeline)),
        visualizer=dict(type='mmseg.SegLocalVisualizer' if segments else 'mmdet.DetLocalVisualizer'),
        precision=precision if isinstance(precision, str) else None))


def _pipeline(stored: Mapping[str, Any]) -> list[dict]:
    for split in ('test', 'val'):
        node = stored.get(f'{split}_dataloader')
        while isinstance(node, Mapping):  # wrappers hold their data set under this name
            if isinstance(node.get('pipeline'), list) and all(isinstance(step, dict) for step in node['pipeline']):
                return node['pipeline']
            node = node.get('dataset')
    raise NoConfig('holds a config without a test pipeline (test_dataloader.dataset.pipeline)')


def _without_training(node: Any) -> Any:
    """A copy without what only training and loading look at: first weights, assigners, weights of classes, ..."""
    if isinstance(node, dict):
        return {
            key: None if key == 'train_cfg' else _without_training(value)  # some classes want to be given it
            for key, value in node.items() if key not in TRAINING_ONLY
        }
    return type(node)(_without_training(value) for value in node) if isinstance(node, list | tuple) else node


def _check(node: Any, place: str, scope: str, roots: tuple[Registry, ...]) -> None:
    """Refuse what is no registered class, and texts that are no words.

    Raises:
        NoConfig: naming the place.
    """
    if isinstance(node, dict):
        kind = node.get('type')
        if 'type' in node and not (isinstance(kind, str) and (kind in UNREGISTERED or _registered(kind, scope, roots))):
            raise NoConfig(f'holds a config with {place}.type={str(kind)[:60]!r}, which is no class that '
                           f'{", ".join(SCOPES)} register and is not imported')
        for key, value in node.items():
            if not isinstance(key, str):
                raise NoConfig(f'holds a config in which {place} has the key {str(key)[:40]!r}, which is no name')
            _check(value, f'{place}.{key}', scope, roots)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _check(value, f'{place}.{index}', scope, roots)
    elif isinstance(node, str) and (not WORD.fullmatch(node) or FILE.search(node)):
        raise NoConfig(f'holds a config with {place}={node[:60]!r}, which is no plain word')


def _registered(kind: str, scope: str, roots: tuple[Registry, ...]) -> bool:
    """Whether MMEngine finds a class of this name in a registry; else it would import what bears the name."""
    own, _, name = kind.rpartition('.')
    own = own or scope
    if own not in SCOPES:
        return False
    import_module(f'{own}.registry')
    for root in roots:
        for registry in (root, root.children.get(own)):
            if registry is not None:
                registry.import_from_location()
                if name in registry.module_dict:
                    return True
    return False


# --- which checkpoint ---------------------------------------------------------------------------------------


def find_checkpoint(given: str | Path, tell: Callable[[str], None] | None = None) -> str | Path:
    """A checkpoint itself, or that of a work folder: the best one where the run chose one, else the newest.

    Args:
        given: path of either, or any other name of a checkpoint, which stays as it is.
        tell: takes the lines about what was found; default: the log.

    Raises:
        ValueError: nothing is there, it is no checkpoint, or a folder without one that can be used.
    """
    folder, tell = Path(given), tell or (lambda text: print_log(text, 'current'))
    if not folder.is_dir() or is_checkpoint(folder):
        if folder.exists() or folder.suffix not in SUFFIXES:  # else the reader tells of the file that is missing
            check_file(given)
        return given
    found = _best(folder) or _newest(folder, tell) or _weight_file(folder)
    if found is None:
        raise ValueError(
            f'the folder {folder} holds no checkpoint (epoch_000012, iter_000120, best_*.pth, epoch_12.pth); give the '
            'work folder of a run, or a checkpoint'
        )
    tell(f'checkpoint of {folder}: {found.name}')
    return found


def holds_checkpoint(given: str | Path) -> bool:
    """Whether a path is a checkpoint, or a work folder with one; nothing is logged or raised."""
    path = Path(given)
    try:
        if path.is_dir():
            return bool(is_checkpoint(path) or list_checkpoints(path) or _weight_file(path))
        return path.is_file() and bool(file_kind(path))
    except (ValueError, OSError):
        return False


def check_file(given: str | Path) -> None:
    """Refuse a local name without a checkpoint behind it; of a file, the first bytes are looked at.

    Raises:
        ValueError: nothing is there, or a file of another kind.
    """
    path = resolve(given).path  # None: to be downloaded
    if path is None or is_checkpoint(path):
        return
    if path.is_file():
        if path.suffix.lower() in (*IMAGE_SUFFIXES, '.py'):
            kind = 'a config' if path.suffix == '.py' else 'a picture'
            raise ValueError(f'{path} is {kind}, not a checkpoint; give a checkpoint, or the work folder of a run')
        file_kind(path)
    elif not path.exists():
        raise ValueError(f'nothing is there at {path}; correct the path: give a checkpoint, or the work folder of a '
                         f'run{_beside(path)}')


def _beside(path: Path) -> str:
    """What a path that does not exist may have been meant to be."""
    try:
        near = difflib.get_close_matches(path.name, sorted(other.name for other in path.parent.iterdir()), 1)
    except OSError:
        return ''
    return f'. Did you mean {path.parent / near[0]}?' if near else ''


def _best(folder: Path) -> Path | None:
    """The checkpoint that is the best by the first metric that names one that is there."""
    for best in read_best(folder).values():
        if is_checkpoint(folder / best.checkpoint):
            return folder / best.checkpoint
    return None


def _newest(folder: Path, tell: Callable[[str], None]) -> Path | None:
    found = newest_valid(folder)
    for problem in found.problems:
        tell(problem)
    if found.path is None and list_checkpoints(folder):
        raise ValueError(f'no checkpoint of {folder} can be used: {"; ".join(found.problems)}')
    return found.path


def _weight_file(folder: Path) -> Path | None:
    """The exported file, or that of MMEngine: the best one, else that with the highest number."""
    for pattern in ('best_*.pth', 'epoch_*.pth', 'iter_*.pth'):
        files = [path for path in folder.glob(pattern) if path.is_file()]
        if files:
            return max(files, key=_number)
    return None


def _number(path: Path) -> tuple[int, str]:
    match = NUMBER.search(path.stem)
    return int(match[1]) if match else -1, path.name
