"""What the command-line tools share: options, and one way to end on a user's mistake."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from backbones.missing import MissingToolboxError, how_to_install
from backbones.training.exits import ending_with_the_run

TRACEBACK_VARIABLE = 'MMBACKBONES_TRACEBACK'
DICT = re.compile(r'(^|[\[(,\s\'"])(dict\(|\{\s*[\'"]?\w+[\'"]?\s*:)')
GREETING = 'Could not import OneDL'  # what mmdet and mmseg of the maintained forks print on import: a debug message
# What gloo, NCCL and the store say of a connection whose other end is gone.
BROKEN = re.compile(
    'Connection (closed|reset) by peer|Broken pipe|Connection was likely closed|ncclRemoteError|remote process exited|'
    'NCCL communicator was aborted')


class ToolParser(argparse.ArgumentParser):
    """A parser that prints the tool's docstring as it is, and answers an unknown option with the nearest one.

    Options are written in full: an abbreviation that is clear today would be refused, or be another option, with the
    next option that begins alike.
    """

    def __init__(self, *args, formatter_class: type = argparse.RawDescriptionHelpFormatter, **kwargs) -> None:
        super().__init__(*args, formatter_class=formatter_class, allow_abbrev=False, **kwargs)

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
                   ) -> argparse.Namespace:
        """Parse the command line; what nothing takes ends the process with one sentence and code 2."""
        return self._all_taken(self.parse_known_args, args, namespace)

    def parse_intermixed_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
                              ) -> argparse.Namespace:
        """Do the same where options may stand between arguments."""
        return self._all_taken(self.parse_known_intermixed_args, args, namespace)

    def _all_taken(self, parse: Callable[..., tuple[argparse.Namespace, list[str]]], args: list[str] | None,
                   namespace: argparse.Namespace | None) -> argparse.Namespace:
        words, known = sys.argv[1:] if args is None else args, self._options(hidden=True)
        self._words = words
        for word in words[:words.index('--')] if '--' in words else words:
            # looked at first, as the value of an unknown option would be taken for an argument and its place be blamed
            if word.startswith('--') and ' ' not in word and word.partition('=')[0] not in known:
                self._refuse(word)
        found, left = parse(args, namespace)
        if left:
            self._refuse(next((word for word in left if word.startswith('-')), left[0]))
        return found

    def error(self, message: str) -> NoReturn:
        """End with the message; of a config that an option of several values took, say so."""
        if re.search(r'required: .*\b(config|CONFIG)\b', message):
            option = None
            for word in getattr(self, '_words', ()):
                option = word if word.startswith('--') else option
                if word.endswith('.py') and option is not None and '=' not in word:
                    message = f'{option} took {word} as one of its values; put CONFIG before {option}'
        super().error(message)

    def _refuse(self, word: str) -> None:
        option, _, value = word.partition('=')
        if option in self._options():
            text = f'{option} belongs to another command; '
        elif word.startswith('-'):
            known = [name for name in self._options() if name.startswith('--')]
            near = ([name for name in known if name.startswith(option)]
                    or [name for name in known if option.replace('_', '-').startswith(f'{name}-')]
                    or difflib.get_close_matches(option.lower().replace('_', '-'), known, 1))
            text = f'{option} is no option; ' + (f'did you mean {" or ".join(near)}? ' if near else '')
        elif value and '--cfg-options' in self._options():
            text = f'{word} stands alone, and KEY=VALUE belongs behind --cfg-options; '
        else:
            text = f'{word} is one argument too many; '
        self.exit(2, f'error: {text}`{self.prog} --help` lists what there is\n')

    def _options(self, hidden: bool = False) -> list[str]:
        """The options of this parser and of its commands; the `hidden` ones, too."""
        own = [name for action in self._actions for name in action.option_strings
               if hidden or action.help is not argparse.SUPPRESS]
        commands = [parser for action in self._actions if isinstance(action, argparse._SubParsersAction)
                    for parser in action.choices.values()]
        return own + [name for parser in commands for name in parser._options(hidden)]


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


@contextlib.contextmanager
def without_greeting() -> Iterator[None]:
    """Leave out the lines of `GREETING` from what is printed, whenever the toolboxes are imported."""
    stream, follows = sys.stdout, False

    def write(text: str) -> int:
        nonlocal follows
        greets, ends = text.startswith(GREETING), follows and text == '\n'
        follows = greets and not text.endswith('\n')  # print() writes the end of the line by itself
        return len(text) if greets or ends else plain(text)

    try:
        # an attribute of the stream, not another stream: whoever holds it or asks it (a bar, a handler) finds the same
        plain, stream.write = stream.write, write
    except AttributeError:  # closed, or of another kind
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError):
            del stream.write


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
        with ending_with_the_run(), without_greeting():
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
