"""Bring everything `make demo` and `make test` need into one virtual environment. Called by the Makefile.

An environment that this script makes gets exactly what requirements/*.txt says. In one that was there
before (`VENV=path`), only what is missing is installed: its torch, mmcv, numpy ... stay as they are.

Order: torch, while mmcv's source is downloaded; then mmcv is compiled while pip installs the rest. Runs with
any Python >= 3.10, standard library only; the output of pip lies in <venv>/setup_logs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from build_mmcv import missing_tool
from pins import ROOT, SetupError, cache_folder, distribution, pinned_version, read_requirements

START = time.monotonic()
OURS = '.made-by-mmbackbones'  # marks an environment that this script made
HERE = Path(__file__).parent
# Other distributions that install the same module.
SAME_MODULE = {
    'opencv-python-headless': ('opencv-python', 'opencv-contrib-python', 'opencv-contrib-python-headless'),
    'onedl-mmengine': ('mmengine', 'mmengine-lite'),
    'onedl-mmcv': ('mmcv', 'mmcv-lite'),
    'onedl-mmdetection': ('mmdet',),
    'onedl-mmsegmentation': ('mmsegmentation',),
    'imaug': ('imgaug',),
}
# numpy comes with torch: mmcv's build imports it, so it must not change meanwhile.
NUMPY = [line for line in read_requirements('runtime') if distribution(line) == 'numpy']
# Run by the environment's own Python: its version and the distributions it has.
PROBE = """
import importlib.metadata, json, sys
names = {(d.metadata['Name'] or '').replace('_', '-').replace('.', '-').lower(): d.version
         for d in importlib.metadata.distributions()}
print(json.dumps({'version': list(sys.version_info[:2]), 'installed': names}))
"""


def say(text: str) -> None:
    print(f'[{time.monotonic() - START:4.0f} s] {text}', flush=True)


@dataclass
class Step:
    """One command in the background. Its output goes to `log`, or to the terminal where `log` is None."""

    name: str
    command: list[str]
    log: Path | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        say(f'{self.name} ...')
        output = None if self.log is None else self.log.open('w', encoding='utf-8')
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=output,
                                        stderr=None if output is None else subprocess.STDOUT)

    def tail(self, lines: int) -> str:
        text = self.log.read_text(encoding='utf-8', errors='replace') if self.log else ''
        return '\n'.join([line for line in text.splitlines() if line.strip()][-lines:])


def wait(*steps: Step, heartbeat: float = 20.0) -> None:
    """Wait for all steps, with a sign of life every `heartbeat` seconds; raise SetupError if one failed."""
    running, told = list(steps), time.monotonic()
    while running:
        time.sleep(0.1)
        for step in [s for s in running if s.process.poll() is not None]:
            running.remove(step)
            if step.process.returncode == 0:
                say(f'{step.name}: done in {time.monotonic() - step.began:.0f} s')
        if time.monotonic() - told > heartbeat:
            told = time.monotonic()
            for step in running:
                say(f'{step.name}: still at it' + (f' ({step.tail(1).strip()[:90]})' if step.log else ''))
    for step in steps:
        if step.process.returncode:
            print(step.tail(15), file=sys.stderr)
            where = f', all of it in {step.log}' if step.log else ''
            raise SetupError(f'set-up stopped: {step.name} failed; the reason stands above{where}. '
                             'What is done stays done: repeat the command once it is mended.')


def require_compiler() -> None:
    """Say at once, not after the downloads, that a compiler is missing, unless a kept wheel may serve."""
    kept = cache_folder().glob(f'onedl-mmcv-{pinned_version("onedl-mmcv")}_*/*.whl')
    sentence = missing_tool()
    if sentence and not any(kept):
        raise SetupError(sentence)


class Environment:
    """A virtual environment: its interpreter, what it holds, and whether this script made it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.python = self.folder / 'bin' / 'python'
        self.logs = self.folder / 'setup_logs'
        if not self.python.exists():
            self.create()
        self.logs.mkdir(exist_ok=True)
        self.ours = (self.folder / OURS).exists()
        self.probe()

    def create(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise SetupError(f'{self.folder} is not empty and holds no bin/python: name another VENV=folder.')
        if find_spec('venv') is None or find_spec('ensurepip') is None:
            raise SetupError(f'{sys.executable} lacks the modules venv and ensurepip: run `apt-get install '
                             'python3-venv`, or choose another Python >= 3.10 by PYTHON=...')
        require_compiler()
        wait(Step(f'virtual environment {self.folder}', [sys.executable, '-m', 'venv', str(self.folder)]))
        (self.folder / OURS).touch()

    def ask(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the environment's Python and return its answer."""
        command = [str(self.python), *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def probe(self) -> None:
        done = self.ask('-c', PROBE)
        if done.returncode:
            reason = done.stderr.strip()[-200:]
            raise SetupError(f'{self.python} does not run ({reason}): remove {self.folder}.')
        answer = json.loads(done.stdout)
        self.installed: dict[str, str] = answer['installed']
        if tuple(answer['version']) < (3, 10):
            found = '.'.join(map(str, answer['version']))
            raise SetupError(f'{self.python} is Python {found}; 3.10 or newer is needed: name another VENV.')
        if 'pip' not in self.installed:
            raise SetupError(f'{self.folder} holds no pip: run `{self.python} -m ensurepip`.')

    def present(self, requirement: str) -> str | None:
        """The installed distribution, 'name version', that already gives what `requirement` asks for."""
        name = distribution(requirement)
        found = next((n for n in (name, *SAME_MODULE.get(name, ())) if n in self.installed), None)
        return found and f'{found} {self.installed[found]}'

    def wanted(self, requirements: list[str]) -> list[str]:
        """What to hand to pip: all of it in our own environment, only what is missing in another one."""
        return [r for r in requirements if self.ours or not self.present(r)]

    def pip(self, name: str, *arguments: str) -> Step:
        # Not compiling byte code saves 10 s; Python does it for what is imported.
        command = [str(self.python), '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input',
                   '--no-compile', '--no-warn-conflicts', '--progress-bar', 'off', *arguments]
        return Step(name, command, self.logs / f'{name.split()[0]}.log')


def mmcv_works(env: Environment) -> bool:
    """Whether the environment has an mmcv whose ops give right results (another version is kept too)."""
    found = env.present('onedl-mmcv')
    if not found or (env.ours and found != f'onedl-mmcv {pinned_version("onedl-mmcv")}'):
        return False
    done = env.ask(str(HERE / 'check_mmcv.py'), '--found')
    if done.returncode and not found.startswith('onedl-mmcv '):
        reason = done.stderr.strip()[-200:]
        raise SetupError(f'{found} in {env.folder} has no working compiled ops ({reason}): run '
                         f'`{env.python} -m pip uninstall {found.split()[0]}` and repeat the command.')
    return not done.returncode


def install_all(env: Environment, torch: str, test: bool, scratch: Path) -> None:
    """Install what is missing, the long steps side by side."""
    if not env.present('onedl-mmcv'):
        require_compiler()
    first = env.wanted([*read_requirements('build'), *NUMPY])
    kept = None if env.ours else env.present('torch')
    if kept:
        say(f'{kept} is kept, since {env.folder} was there before (TORCH has no effect on it)')
    else:
        first.insert(0, torch)
    steps = []
    if not env.present('onedl-mmcv') and not any(cache_folder().glob('*/*.whl')):
        command = [str(env.python), str(HERE / 'build_mmcv.py'), '--fetch', str(scratch)]
        steps.append(Step('source of mmcv', command, env.logs / 'mmcv_source.log'))
    if first:
        steps.append(env.pip('torch and build tools', *first))
    before = env.installed.get('torch')
    wait(*steps)
    env.probe()

    build = []
    same_torch = before == env.installed.get('torch')  # ops built for another may import and be wrong
    if same_torch and mmcv_works(env):
        say(f'{env.present("onedl-mmcv")} is kept: its compiled ops work')
    else:
        command = [str(env.python), str(HERE / 'build_mmcv.py'), '--source', str(scratch), '--log',
                   str(env.logs / 'mmcv_build.log')]
        build.append(Step('mmcv with compiled ops', command))
    try:
        install_libraries(env, test)
    finally:
        wait(*build)  # also when pip failed: a wheel that gets ready is kept
    wait(Step('check of mmcv._ext', [str(env.python), str(HERE / 'check_mmcv.py')]))


def install_libraries(env: Environment, test: bool) -> None:
    """Everything but torch and mmcv: what the forks import, the forks, this project."""
    files = ('runtime', 'report', 'serve', 'log', *(('test',) if test else ()))
    libraries = env.wanted([line for name in files for line in read_requirements(name)])
    if libraries:
        wait(env.pip('libraries', *libraries))
    forks = env.wanted([r for r in read_requirements('openmmlab') if distribution(r) != 'onedl-mmcv'])
    if forks:
        wait(env.pip('mmengine, mmdet, mmseg', '--no-deps', *forks))
    wait(env.pip('mmbackbones', '--no-deps', '--no-build-isolation', '--editable', str(ROOT)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', required=True, help='folder of the environment; made if it is not there')
    parser.add_argument('--torch', default=read_requirements('torch')[0], help='requirement for torch')
    parser.add_argument('--test', action='store_true', help='with the [test] extra')
    args = parser.parse_args()
    os.environ.pop('PYTHONPATH', None)  # what lies there must not pass for installed
    try:
        env = Environment(Path(args.venv))
        with tempfile.TemporaryDirectory(prefix='mmbackbones-setup-') as scratch:
            install_all(env, args.torch, args.test, Path(scratch))
        env.probe()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('set-up interrupted; repeat the command to go on', file=sys.stderr)
        return 130
    seconds = round(time.monotonic() - START, 1)
    report = {'seconds': seconds, 'torch': env.installed['torch'], 'mmcv': env.present('onedl-mmcv')}
    (env.folder / 'setup.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    say(f'set-up complete in {env.folder}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
