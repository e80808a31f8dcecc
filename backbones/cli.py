"""What the command-line tools share: options, and one way to end on a user's mistake."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator

from backbones.missing import MissingToolboxError, how_to_install
from backbones.training.exits import ending_with_the_run

TRACEBACK_VARIABLE = 'MMBACKBONES_TRACEBACK'
DICT = re.compile(r'(^|[\[(,\s\'"])(dict\(|\{\s*[\'"]?\w+[\'"]?\s*:)')
# What gloo, NCCL and the store say of a connection whose other end is gone.
BROKEN = re.compile(
    'Connection (closed|reset) by peer|Broken pipe|Connection was likely closed|ncclRemoteError|remote process exited|'
    'NCCL communicator was aborted')


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options KEY=VALUE ...`; what is no KEY=VALUE is a ValueError."""
    from mmengine.config import DictAction

    class Overrides(DictAction):
        def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list[str],
                     option_string: str | None = None) -> None:
            wrong = [value for value in values if '=' not in value.lstrip('=')]
            if wrong:
                raise ValueError(
                    f'{option_string} {wrong[0]}: this is no KEY=VALUE; write it like train_cfg.max_epochs=12, without '
                    'spaces around the =, and other arguments before --cfg-options'
                )
            for value in values:
                key, _, text = value.partition('=')
                if DICT.search(text):
                    raise ValueError(
                        f'{option_string} {value}: a dict cannot be given so; write its entries one by one, as in '
                        f'{key}.KEY=VALUE'
                    )
                if not _is_read(self, text):
                    raise ValueError(
                        f'{option_string} {value}: this value cannot be read; give a number, a word or a list, such as '
                        '[1,2,(3,4)]'
                    )
            super().__call__(parser, namespace, values, option_string)

    parser.add_argument(
        '--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE', help='override config entries')


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add `--precision`."""
    parser.add_argument(
        '--precision', metavar='fp32|bf16|fp16',
        help="what the model computes in; default: the config's; docs/precision.md")


def parse_run_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add what training and testing share (overrides, launcher), parse the command line, tell torch the local rank."""
    add_overrides(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    local_rank = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', args.local_rank)  # mpirun
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    return args


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Keep from the standard output what the toolboxes print while they are imported."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def run_tool(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its code.

    A ValueError, a file that cannot be used or a missing module becomes one sentence and exit code 2. Of several
    processes, one whose connection to another broke tells that in a sentence, too, with exit code 1, as the message of
    the other is the cause; the sentences begin with the rank.

    With the environment variable `MMBACKBONES_TRACEBACK=1` the traceback is shown instead.
    """
    # mmdet's, on import; the metric that it names is used by nobody here
    warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
    try:
        with ending_with_the_run():
            code = main()
    except (ValueError, OSError, ImportError) as error:
        if _wants_traceback():
            raise
        print(f'error: {_rank()}{_sentence(error)}', file=sys.stderr)
        code = 2
    except RuntimeError as error:
        if not _rank() or not BROKEN.search(str(error)) or _wants_traceback():
            raise
        text = 'the connection to another rank broke, as that one ended; see its message'
        print(f'error: {_rank()}{text}', file=sys.stderr)
        code = 1
    except SystemExit as end:  # of a hook that ends the run with a code of its own
        code = end.code
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        code = 130
    _leave_process_group(code if isinstance(code, int) else int(code is not None))
    sys.stdout.flush()
    sys.exit(code)


def _leave_process_group(code: int) -> None:
    """End one process of several without running C++ destructors.

    Threads of torch.distributed now and then abort a process that ends while they run ("terminate called without an
    active exception", torch 2.13 with gloo, about one exit in ten on a busy machine, also after
    destroy_process_group()), and torchrun then reports a finished training as failed.
    """
    if 'torch' not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        atexit._run_exitfuncs()  # loggers, trackers and worker processes end as they would
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _is_read(action: argparse.Action, text: str) -> bool:
    """Whether MMEngine understands a value: unequal brackets end in an AssertionError, `f(1,2)` in a RecursionError."""
    try:
        action._parse_iterable(text)
    except (AssertionError, RecursionError):
        return False
    return True


def _wants_traceback() -> bool:
    return os.environ.get(TRACEBACK_VARIABLE) == '1'


def _rank() -> str:
    """`rank R: ` in one process of several that have found each other, else nothing."""
    if 'torch' not in sys.modules:
        return ''
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return ''
    return f'rank {distributed.get_rank()}: '


def _sentence(error: BaseException) -> str:
    """The message of `error`; of an error in a data-loader worker, the message of the original one."""
    text = str(error)
    if isinstance(error, ImportError) and not isinstance(error, MissingToolboxError):
        return f'{text}; {how_to_install(error)}'
    if text.startswith('Caught ') and 'DataLoader worker' in text:
        text = text.rsplit(f'{type(error).__name__}: ', 1)[-1]
    return text.strip()
