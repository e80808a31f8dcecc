"""Do mmcv's compiled ops work? Calls two of them whose right answers are known.

    python tools/setup/check_mmcv.py                    the installed mmcv, imported as mmdet imports it
    python tools/setup/check_mmcv.py --found            the same without importing what mmcv depends on
    python tools/setup/check_mmcv.py FILE [DEVICE]      one _ext*.so, as it lies in a wheel
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from pins import SetupError, cache_folder


def check_ops(extension, devices: list[str]) -> None:
    """Call two ops whose right answers are known; raise SetupError when an answer is wrong."""
    import torch
    for device in devices:
        boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30.0]], device=device)
        scores = torch.tensor([0.9, 0.8, 0.7], device=device)
        kept = extension.nms(boxes, scores, iou_threshold=0.5, offset=0).tolist()
        if kept != [0, 2]:
            raise SetupError(f'mmcv nms on {device} kept the boxes {kept} instead of [0, 2].')
        image = torch.arange(16.0, device=device).view(1, 1, 4, 4)
        whole = image.new_tensor([[0, 0, 0, 4, 4]])
        pooled, unused = image.new_zeros(1, 1, 2, 2), image.new_zeros(0)
        extension.roi_align_forward(
            image, whole, pooled, unused, unused.clone(), aligned_height=2, aligned_width=2,
            spatial_scale=1.0, sampling_ratio=0, pool_mode=1, aligned=True)
        means = [2.5, 4.5, 10.5, 12.5]  # of the four quarters of the image
        given = pooled.flatten().tolist()
        if given != means:
            raise SetupError(f'mmcv RoIAlign on {device} gave {given} instead of {means}.')


def check_file(path: str, device: str = 'cpu') -> None:
    """Load one extension file without the package around it and call its ops, on the GPU if built for it."""
    import torch  # also loads the libraries that the extension is linked against
    loader = importlib.machinery.ExtensionFileLoader('_ext', path)
    extension = importlib.util.module_from_spec(importlib.util.spec_from_loader('_ext', loader))
    loader.exec_module(extension)
    on_gpu = device.startswith('cuda') and torch.cuda.is_available()
    check_ops(extension, ['cpu', 'cuda'] if on_gpu else ['cpu'])


def find_extension() -> str:
    """The _ext*.so of the installed mmcv."""
    spec = importlib.util.find_spec('mmcv')
    folders = spec.submodule_search_locations if spec else []
    found = [path for folder in folders for path in Path(folder).glob('_ext*.so')]
    if not found:
        raise SetupError(f'mmcv lies in {list(folders)} and holds no _ext*.so.')
    return str(found[0])


def check_installed() -> None:
    """Import `mmcv._ext` as mmdet does and call its ops."""
    try:
        import mmcv._ext
        check_ops(mmcv._ext, ['cpu'])
    except Exception as error:
        raise SetupError(
            f'mmcv._ext, the compiled ops of mmcv, does not work ({type(error).__name__}: {error}): remove '
            f'{cache_folder()} and run `make -B setup`, which builds it for the installed torch.') from error


def main(arguments: list[str]) -> int:
    try:
        if arguments == ['--found']:
            check_file(find_extension())
        elif arguments:
            check_file(*arguments)
        else:
            check_installed()
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
