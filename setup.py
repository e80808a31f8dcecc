"""Metadata of the distribution mmbackbones. What it requires is written in requirements/*.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_requirements(name: str) -> list:
    """The requirement lines of requirements/<name>.txt, without comments and empty lines."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith('#')]


def read_version() -> str:
    """`__version__` of the package, read as text: importing it would need what is not installed yet."""
    text = (ROOT / 'backbones' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE).group(1)


def read_extras() -> dict:
    """The extras: `det`, `seg`; `report`, `serve`, `log` for those tools; `all` of these; `trackers`; `test`.

    onedl-mmcv is in none of them: built by pip in an isolated environment, where torch is absent, it silently
    comes without its compiled ops. tools/setup/build_mmcv.py builds and installs it as it must be.
    """
    forks = {line.split('==')[0]: line for line in read_requirements('openmmlab')}
    scorers = [line for line in read_requirements('runtime') if line.startswith(('pycocotools', 'faster-coco-eval'))]
    det = [forks['onedl-mmengine'], forks['onedl-mmdetection'], *scorers]
    seg = [forks['onedl-mmengine'], forks['onedl-mmsegmentation']]
    extras = {name: read_requirements(name) for name in ('report', 'serve', 'log')}
    everything = sorted({*det, *seg}) + [line for lines in extras.values() for line in lines]
    return {'det': det, 'seg': seg, **extras, 'all': everything, 'trackers': read_requirements('trackers'),
            'test': [*everything, *read_requirements('test')]}


readme = ROOT / 'README.md'
setup(
    name='mmbackbones',
    version=read_version(),
    description='ConvNeXt and plain ViT backbones for mmdet, mmseg and any other MMEngine project',
    long_description=readme.read_text(encoding='utf-8') if readme.is_file() else '',
    long_description_content_type='text/markdown',
    author='The mmbackbones authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['backbones', 'backbones.*']),
    package_data={
        'backbones.weights': ['index.json'],
        'backbones.preflight': ['page.html'],
        'backbones.report': ['page.*'],
        'backbones.serve': ['page.*'],
    },
    # MMEngine is not pinned and not required: upstream's mmengine and the maintained fork install the same
    # module, and a plug-in must live with either.
    install_requires=['torch>=2.6', *read_requirements('base')],
    extras_require=read_extras(),
    zip_safe=False,
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
