#!/usr/bin/env python3
"""The web page: restyle photos, clips and the webcam, draw random faces, train a style. On this machine only, unless told."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="app.py", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens the page to the network")
    parser.add_argument("--port", type=cli.positive_int, default=7860, help="port to listen on")
    parser.add_argument("--max_upload_mb", type=cli.positive_int, default=200, help="largest file that may be uploaded")
    parser.add_argument("--faces", choices=("largest", "all"), default="all", help="which faces of a photo")
    cli.add_finder(parser)
    parser.add_argument("--outdir", type=Path, default=Path("outputs/web"), help="folder of trainings and pictures of styles")
    parser.add_argument("--thumbnails", type=cli.str2bool, default=True, help="draw a small picture of each style")
    parser.add_argument("--device", type=cli.device_name, default="auto", help="where to compute: auto, cpu, cuda, cuda:1, mps")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    # Before Gradio is imported: nothing about the use of the page leaves this machine.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from web import layout
    except ImportError as error:
        raise cli.UserError(f"the page needs gradio ({error}); pip install -r requirements-app.txt") from error
    from web.jobs import Trainer, ends_with_the_page
    from web.studio import Studio
    from web.thumbs import Thumbnails

    cli.ensure_dir(args.outdir)
    device = cli.resolve_device(args.device)
    trainer = Trainer(args.outdir.resolve(), str(device), cli.finder_words(args))
    with ends_with_the_page(trainer):
        thumbs = Thumbnails(args.outdir.resolve() / "thumbnails", device) if args.thumbnails else None
        page = layout.build(Studio(device=device, faces=args.faces, finder=cli.finder_of(args)), trainer, thumbs)
        try:
            page.launch(server_name=args.host, server_port=args.port, share=False, quiet=True, prevent_thread_lock=True,
                        max_file_size=args.max_upload_mb * 2**20, blocked_paths=layout.blocked(), theme=layout.theme(),
                        css=layout.CSS, ssr_mode=False, footer_links=[], show_error=False)
        except OSError as error:
            raise cli.UserError(f"--port {args.port}: {error}; choose another one") from error
        print(f"http://{args.host}:{args.port}", flush=True)
        if thumbs is not None:
            thumbs.start()
        page.block_thread()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
