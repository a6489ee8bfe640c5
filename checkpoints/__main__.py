"""``python -m checkpoints list|verify|import``: what is present, missing or wrong."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m checkpoints", description="Weights of this project.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.ArgumentParser)
    commands.add_parser("list", help="tell what is present, missing or wrong at first sight")
    commands.add_parser("verify", help="read every present file: digest where known, else keys, shapes and numbers")
    importing = commands.add_parser("import", help="recognise a downloaded file, check it and put it in its place")
    importing.add_argument("file", type=Path, help="downloaded file")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    from checkpoints.manifest import entries, import_file, status

    if args.command == "import":
        print(import_file(args.file))
        return 0
    wrong = 0
    print(f"{'state':8} {'name':22} {'file':38} {'size':>10}  purpose [licence]")
    for entry in entries():
        state, reason = status(entry, thorough=args.command == "verify")
        size = f"{entry.path.stat().st_size / 1e6:.1f} MB" if entry.path.is_file() else ""
        print(f"{state:8} {entry.name:22} {entry.path.name:38} {size:>10}  {entry.purpose} [{entry.licence}]")
        if state == "wrong":
            wrong += 1
            cli.report(reason)
        elif state == "missing":
            print(f"{'':8} {reason}")
    sys.stdout.flush()
    return 2 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
