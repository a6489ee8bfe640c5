"""``python -m checkpoints list|verify|import|download|doctor``: what is present, missing or wrong, and how it gets here."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    from checkpoints.manifest import Entry


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m checkpoints", description="Weights of this project.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.ArgumentParser)
    commands.add_parser("list", help="tell what is present, missing or wrong at first sight")
    commands.add_parser("verify", help="read every present file: digest where known, else keys, shapes and numbers")
    importing = commands.add_parser("import", help="recognise a downloaded file, check it and put it in its place")
    importing.add_argument("file", type=Path, help="downloaded file")
    fetching = commands.add_parser("download", help="fetch files, check them and put them in their place")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="names of the list")
    fetching.add_argument("--mirror", default=None, help="address of a folder that has the files by their names in the list")
    fetching.add_argument("--yes", action="store_true", help="accept the licences")
    commands.add_parser("doctor", help="tell in one screen what is here, what runs and what is missing")
    return parser.parse_args(argv)


def consent(entry: Entry) -> None:
    """Ask whether a licence is accepted; raises UserError where it is not, or where there is nobody to ask."""
    text = f"{entry.name}: its licence is {entry.licence!r} ({entry.source}) and may rule out commercial use"
    if not sys.stdin.isatty():
        raise cli.UserError(f"{text}; --yes accepts it")
    if input(f"{text}. Accept it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise cli.UserError(f"{entry.name}: not fetched")


def fetch(args: Namespace) -> int:
    """Fetch what is named and not here yet."""
    from tqdm import tqdm

    from checkpoints.download import address, download, needs_consent
    from checkpoints.manifest import entries, status

    known = {entry.name: entry for entry in entries() if not entry.folder and entry.kind != "own"}
    for name in args.names:
        if name not in known:
            raise cli.UserError(f"{name}: no such file; there are {', '.join(known)}")
    for name in args.names:
        entry = known[name]
        if status(entry, thorough=False)[0] == "present":
            cli.report(f"{entry.path}: is here already")
            continue
        address(entry, args.mirror)  # tells of a file that cannot be fetched before a licence is asked for
        if needs_consent(entry) and not args.yes:
            consent(entry)
        with tqdm(desc=name, unit="B", unit_scale=True, total=entry.bytes) as bar:
            def progress(have: int, total: int | None, bar: tqdm = bar) -> None:
                bar.total = total or bar.total
                bar.update(have - bar.n)

            place = download(entry, mirror=args.mirror, progress=progress)
        print(place)
    return 0


def run(args: Namespace) -> int:
    if args.command == "doctor":
        from checkpoints.doctor import report

        lines, well = report()
        print("\n".join(lines))
        return 0 if well else 2
    from checkpoints.manifest import entries, import_file, status

    if args.command == "download":
        return fetch(args)
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
