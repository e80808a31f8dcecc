#!/usr/bin/env python
"""Try a model in the browser: a page on this machine that takes pictures, and an endpoint that gives JSON.

python tools/serve.py work_dirs/run                         # then open the address that it prints
curl -F image=@photo.jpg http://127.0.0.1:8000/predict

CHECKPOINT is epoch_000012, epoch_12.pth, or the work folder of a run (its best checkpoint, else its newest). It knows
its config; --config is for checkpoints of other programs and of older versions. docs/serve.md tells more.
"""

try:
    from backbones.cli import ToolParser, add_precision, quiet_imports, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def main() -> int:
    parser = ToolParser(description=__doc__)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='a checkpoint, or the work folder of a run')
    parser.add_argument('--config', metavar='FILE', help='config of a checkpoint that does not hold it')
    parser.add_argument(
        '--host', default='127.0.0.1',
        help='address to listen on (default 127.0.0.1: this machine only; 0.0.0.0: whoever reaches it, no password)')
    parser.add_argument('--port', type=int, default=8000, help='port to listen on (default 8000; 0: any that is free)')
    parser.add_argument('--device', help='cpu, cuda, cuda:1; default: the GPU if there is one')
    add_precision(parser)
    parser.add_argument(
        '--max-mb', type=float, default=20, metavar='N', help='largest picture as a file, in MB (default 20)')
    parser.add_argument('--open', action='store_true', help='open the page in a browser')
    args = parser.parse_args()
    with quiet_imports():
        from backbones.serve.server import serve

    return serve(
        args.checkpoint, args.config, host=args.host, port=args.port, device=args.device, precision=args.precision,
        max_mb=args.max_mb, opened=args.open)


if __name__ == '__main__':
    run_tool(main)
