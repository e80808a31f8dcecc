"""Build mmcv WITH its compiled ops for the torch of this Python, keep the wheel, install it.

    python tools/setup/build_mmcv.py      build (or take from the cache), check, install

Why a script: `pip install onedl-mmcv` builds in an isolated environment without torch and then silently
leaves the ops out. Built with --no-build-isolation, its 78 C++ files parse the torch headers for about 7 s
each, which takes 5 to 8.5 minutes on 2 cores. Three changes to a copy of the source bring that to 40 s; the
ops' results stay equal:

- the files are included into three units, so the headers are parsed three times, not 78 times (`plan_units`);
- pybind.cpp includes what it uses of <torch/extension.h>, the whole of which takes 10 s more to parse;
- no debug information (-g0).

The wheel is checked by calling its ops before it is kept; if anything fails, the plain source is built. It
lies in ~/.cache/mmbackbones/wheels/<mmcv version, torch, Python, platform> and serves later clones.

With a CUDA build of torch and nvcc the ops are built for the GPU too, from the plain source (.cu files are
not grouped). Environment variables that matter: CXX, CUDA_HOME, FORCE_CUDA, TORCH_CUDA_ARCH_LIST, MAX_JOBS.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from pins import SetupError, cache_folder, pinned_version

DISTRIBUTION = 'onedl-mmcv'
CSRC = Path('mmcv', 'ops', 'csrc', 'pytorch')
# These three define templates of the same name (PreCalc, bilinear_interpolate_gradient): one in each unit.
SAME_NAMES = ('cpu/bezier_align.cpp', 'cpu/roi_align.cpp', 'cpu/roi_align_rotated.cpp')
# As distutils would have it, without -g. -O3 counts: with -O2 RoIAlign's backward pass runs 18% slower.
FLAGS = '-O3 -DNDEBUG -fwrapv -g0'
CHECK = Path(__file__).with_name('check_mmcv.py')
PLAIN_MINUTES = '5 to 9 minutes on 2 cores'


def say(text: str) -> None:
    print(f'mmcv: {text}', flush=True)


def missing_tool() -> str | None:
    """The sentence that says which part of the compiler is missing, or None."""
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if shutil.which(compiler) is None:
        return (f'mmcv has to be compiled, but the C++ compiler {compiler!r} is not on the PATH: '
                'run `apt-get install g++` (or set CXX), then repeat the command.')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    if not header.is_file():
        return (f'mmcv has to be compiled, but {header} is missing: '
                f'run `apt-get install python3-dev`, then repeat the command.')
    return None


def plan_units(sources: list[str]) -> list[list[str]]:
    """Divide the C++ sources into three units of about equal compile time, each source in exactly one.

    Args:
        sources: paths below csrc/pytorch: 'nms.cpp', 'cpu/nms.cpp', ...; pybind.cpp alone takes 20 s.
    """
    kernels = sorted(s for s in sources if s.startswith('cpu/') and s not in SAME_NAMES)
    wrappers = sorted(s for s in sources if '/' not in s and s != 'pybind.cpp')
    units = [[s for s in sources if s == 'pybind.cpp'], wrappers, kernels]
    for unit, name in zip(units, SAME_NAMES, strict=True):
        unit += [name] if name in sources else []
    return [unit for unit in units if unit]


def group_sources(root: Path) -> int:
    """Replace the C++ sources below `root` (an unpacked mmcv) by the units of `plan_units`.

    A source is renamed to .inc, which mmcv's setup.py does not compile, and included into its unit. Some
    define the macros min and max, hence the #undef after each.

    Returns:
        The number of units.
    """
    folder = root / CSRC
    found = [*folder.glob('*.cpp'), *folder.glob('cpu/*.cpp')]
    units = plan_units([path.relative_to(folder).as_posix() for path in found])
    for number, unit in enumerate(units):
        text = '#include "pytorch_cpp_helper.hpp"\n#include "pytorch_device_registry.hpp"\n'
        for name in unit:
            renamed = Path(name).with_suffix('.inc')
            source = (folder / name).read_text(encoding='utf-8')
            (folder / renamed).write_text(
                source.replace('<torch/extension.h>', '<torch/csrc/utils/pybind.h>'), encoding='utf-8')
            (folder / name).unlink()
            text += f'#include "{renamed.as_posix()}"\n#undef min\n#undef max\n'
        (folder / f'unit_{number}.cpp').write_text(text, encoding='utf-8')
    return len(units)


def accelerator() -> str:
    """What the ops are built for besides the CPU, as part of the cache key: 'cpu', 'hip' or 'cuda-<arch>'."""
    import torch
    from torch.utils import cpp_extension
    if torch.version.hip:
        return 'hip'
    forced = os.environ.get('FORCE_CUDA') == '1'
    if not torch.version.cuda or not (forced or torch.cuda.is_available()):
        return 'cpu'
    home = cpp_extension.CUDA_HOME
    if home is None or not Path(home, 'bin', 'nvcc').is_file():
        say('WARNING: there is a GPU but no nvcc, so the ops are built for the CPU only and no detector runs '
            f'on the GPU; install CUDA {torch.version.cuda} with nvcc, set CUDA_HOME, run `make -B setup`.')
        return 'cpu'
    arch = os.environ.get('TORCH_CUDA_ARCH_LIST')
    return 'cuda-' + (arch or '.'.join(map(str, torch.cuda.get_device_capability())))


def cache_key(torch_version: str, device: str, python: str | None = None, system: str | None = None,
              mmcv_version: str | None = None) -> str:
    """Name of the cache folder: everything that decides whether a wheel fits."""
    python = python or sysconfig.get_config_var('SOABI') or sys.implementation.cache_tag
    system = system or '-'.join([sysconfig.get_platform(), *platform.libc_ver()])
    version = mmcv_version or pinned_version(DISTRIBUTION)
    key = f'{DISTRIBUTION}-{version}_torch-{torch_version}_{python}_{system}_{device}'
    return re.sub(r'[^\w.+-]+', '-', key)


def pip(*arguments: str) -> None:
    """Run pip of this Python quietly; its own error message is the explanation when it fails."""
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--no-input', *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
        raise SetupError(f'`pip {" ".join(arguments)}` failed, see above; check the network and try again.')


def fetch_source(folder: Path) -> Path:
    """Download the pinned source distribution into `folder`, unless it lies there, and return the file."""
    version = pinned_version(DISTRIBUTION)
    if not list(folder.glob(f'*{version}.tar.gz')):
        pip('download', '--quiet', '--no-deps', '--no-binary', DISTRIBUTION, '--dest', str(folder),
            f'{DISTRIBUTION}=={version}')
    return next(folder.glob(f'*{version}.tar.gz'))


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the source distribution freshly into `folder`; return its top folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(archive, folder)
    return next(folder.iterdir())


def compile_wheel(source: Path, device: str, log: Path) -> Path:
    """Run mmcv's own build on `source` with a line of progress per compiled unit; return the wheel."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    env = dict(os.environ, MMCV_WITH_OPS='1', CFLAGS=f'{FLAGS} {os.environ.get("CFLAGS", "")}'.strip())
    env.setdefault('MAX_JOBS', str(cores))
    # This environment's ninja:
    env['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{env.get("PATH", "")}'
    if device == 'cpu':
        env.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')  # mmcv asks for nvcc when it sees a GPU
    elif device.startswith('cuda'):
        env['FORCE_CUDA'] = '1'
    target = source.parent / 'wheel'
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'wheel', '--verbose', '--no-deps',
               '--no-build-isolation', '--no-cache-dir', '--wheel-dir', str(target), str(source)]
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors='replace')
    errors = []
    with log.open('a', encoding='utf-8') as file:
        for line in process.stdout:
            file.write(line)
            if re.search(r'(error|Error|ERROR): ', line):
                errors.append(line.strip())
            if step := re.match(r'\s*\[(\d+)/(\d+)\] ', line):
                say(f'{step[1]} of {step[2]} units compiled')
    if process.wait():
        head = f'mmcv could not be compiled (if memory ran out, set MAX_JOBS=1); the first errors of {log}:'
        raise SetupError('\n  '.join([head, *errors[:4]]))
    return next(target.glob('*.whl'))


def check_wheel(wheel: Path, device: str) -> None:
    """Load `mmcv._ext` out of a wheel in a fresh process and call its ops."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r'mmcv/_ext\..*(so|pyd)', name)]
        if not names:
            raise SetupError('the wheel was built without mmcv._ext.')
        command = [sys.executable, str(CHECK), archive.extract(names[0], folder), device]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError((done.stdout + done.stderr).strip().rsplit('\n', 1)[-1])


def build(folder: Path, device: str, log: Path) -> Path:
    """Build and check the wheel: grouped if only the CPU is asked for, else (or on failure) file by file."""
    archive = fetch_source(folder)
    if device == 'cpu':
        try:
            source = unpack(archive, folder / 'grouped')
            say(f'compiling the ops, 78 files in {group_sources(source)} units (about 40 s on 2 cores)')
            wheel = compile_wheel(source, device, log)
            check_wheel(wheel, device)
            return wheel
        except (SetupError, OSError, StopIteration) as error:
            say(f'the grouped build did not work: {error}')
    say(f'compiling the ops file by file ({PLAIN_MINUTES})')
    wheel = compile_wheel(unpack(archive, folder / 'plain'), device, log)
    check_wheel(wheel, device)
    return wheel


def publish(wheel: Path, target: Path) -> Path:
    """Put the wheel into the cache in one step, so that no other process ever sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix='.new-', dir=target.parent))
    try:
        shutil.copy2(wheel, staging)
        staging.chmod(0o755)
        staging.rename(target)
    except OSError:  # another process was faster; its wheel is as good
        if not list(target.glob('*.whl')):
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target / wheel.name


def wheel_for_this_torch(folder: Path, log: Path) -> Path:
    """The wheel from the cache if a working one lies there, else a fresh build, then kept."""
    try:
        import torch
    except ImportError as error:
        raise SetupError(f'mmcv is built for the installed torch ({error}): run `make setup`.') from error
    device = accelerator()
    target = cache_folder() / cache_key(torch.__version__, device)
    for wheel in target.glob('*.whl'):
        try:
            check_wheel(wheel, device)
            say(f'using the wheel built before, {wheel}')
            return wheel
        except (SetupError, OSError, zipfile.BadZipFile) as error:
            say(f'the kept wheel {wheel} does not work ({error}) and is built again')
    shutil.rmtree(target, ignore_errors=True)
    if sentence := missing_tool():
        raise SetupError(sentence)
    return publish(build(folder, device, log), target)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fetch', metavar='DIR', help='only download the source distribution into DIR')
    parser.add_argument('--source', metavar='DIR', help='folder with the downloaded source distribution')
    parser.add_argument('--log', default=str(cache_folder() / 'build.log'),
                        help='file for the compiler output, by default %(default)s')
    args = parser.parse_args(arguments)
    try:
        if args.fetch:
            fetch_source(Path(args.fetch))
        else:
            with tempfile.TemporaryDirectory(prefix='mmcv-build-') as folder:
                log = Path(args.log).resolve()
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text('', encoding='utf-8')
                wheel = wheel_for_this_torch(Path(args.source or folder), log)
                pip('install', '--quiet', '--no-deps', '--force-reinstall', '--no-index', str(wheel))
    except (SetupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
