"""What several test files share: the reference tensors and a Python process that knows nothing yet.

`tests/references/` holds outputs of other implementations; the meta.json of each folder names the source.
More of them may lie in `../shared/references` beside the project; tests that need those skip without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'  # sample images and more reference tensors, where someone has put them
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f'the sample data sets ({SHARED / "data"}) are not here')


@pytest.fixture(scope='session', autouse=True)
def _cache_of_the_checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests have checked is not remembered in the user's cache."""
    before = os.environ.get('XDG_CACHE_HOME')
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
    yield
    if before is None:
        del os.environ['XDG_CACHE_HOME']
    else:
        os.environ['XDG_CACHE_HOME'] = before


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--figures docs/soak.json`: what the tests counted, for the pages."""
    parser.addoption('--figures', metavar='FILE', help='JSON file that takes the figures of the tests (one process)')


FIGURES = pytest.StashKey[dict[str, dict[str, float]]]()


@pytest.fixture(scope='session')
def figure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return count(name, **values): values of one name add up over all tests, those called `most_...` keep the largest.

    With `--figures FILE` they go there; names that no test counted stay as they are in the file.
    """
    counted = request.config.stash.setdefault(FIGURES, {})

    def count(name: str, **values: float) -> None:
        so_far = counted.setdefault(name, {})
        for key, value in values.items():
            before = so_far.get(key, 0)
            so_far[key] = round(max(before, value), 2) if key.startswith('most_') else before + value
        if target := request.config.getoption('--figures'):
            file = Path(target)
            known = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({**known, **counted}, indent=1, sort_keys=True) + '\n')

    return count


@dataclass(frozen=True)
class Reference:
    """One layout: a checkpoint of another implementation with its inputs and features.

    Attributes:
        folder: where the files lie.
        meta: meta.json: architecture, cases, tolerance, source.
        tensors: io.safetensors: 'input', 'out0', ...; further cases carry a prefix such as 'b.'.
    """

    folder: Path
    meta: dict
    tensors: dict[str, Tensor]

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file, whatever its format."""
        return next(self.folder.glob('checkpoint.*'))

    def state_dict(self) -> dict[str, Tensor]:
        """Read the tensors of a .pth or .safetensors file below their wrapper key, prefix removed."""
        if self.checkpoint.suffix == '.safetensors':
            state = load_file(self.checkpoint)
        else:
            state = torch.load(self.checkpoint, map_location='cpu', weights_only=True)
        if self.meta['checkpoint']['wrapper']:
            state = state[self.meta['checkpoint']['wrapper']]
        prefix = self.meta['checkpoint']['prefix']
        return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}

    def assert_close(self, output: Tensor, name: str) -> None:
        """Compare with the stored tensor `name` within the tolerance that the layout states."""
        tolerance = self.meta['tolerance']
        torch.testing.assert_close(
            output, self.tensors[name], atol=tolerance['atol'], rtol=tolerance['rtol'], check_stride=False
        )


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder ../shared beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f'{SHARED} is not there; it holds more reference tensors and sample images')
    return SHARED


@pytest.fixture(scope='session')
def reference(request: pytest.FixtureRequest) -> Callable[[str], Reference]:
    """Return load(layout): from tests/references, else ../shared/references, else the test is skipped."""

    def load(layout: str) -> Reference:
        folder = ROOT / 'tests' / 'references' / layout
        if not folder.is_dir():
            folder = request.getfixturevalue('shared') / 'references' / layout
        if not folder.is_dir():
            pytest.skip(f'reference layout {layout} is neither in tests/references nor in {folder.parent}')
        meta = json.loads((folder / 'meta.json').read_text())
        return Reference(folder, meta, load_file(folder / 'io.safetensors'))

    return load


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess]:
    """Return run(code): a fresh process in an empty folder that finds the project through PYTHONPATH only."""

    def run(code: str) -> subprocess.CompletedProcess:
        env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        command = [sys.executable, '-c', code]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return run
