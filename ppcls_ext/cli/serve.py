"""`pplcnet serve`."""

from __future__ import annotations

import argparse
import ipaddress
import os
from pathlib import Path

from ppcls_ext.cli.arguments import (
    FIRST_OF_PREFERRED,
    THREADS_DEFAULT,
    batch,
    engine_names,
    given,
    path,
    port,
    positive,
    real,
    share,
    threads,
)
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import Unreadable, read_text

LONGEST_TOKEN = 1 << 16  # bytes of its file
TOKEN = "PPLCNET_TOKEN"  # the environment variable

NAME = "serve"
HELP = "answer HTTP requests with results"
DESCRIPTION = (
    "Serve exported models over HTTP: POST /predict takes an image, /v2 speaks the open inference protocol of KServe "
    "and Triton. Writes a log of JSON lines to stdout. SIGTERM stops it once what it has accepted is answered."
)
EXAMPLES = (
    "pplcnet serve -m output/my_images/inference",
    "pplcnet serve -m flowers=output/my_images/inference output/my_coco/inference --host 0.0.0.0 --token-file token",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("exported models")
    group.add_argument(
        "-m",
        "--model",
        nargs="+",
        type=given,
        required=True,
        metavar="FOLDER",
        help="serve the models that export wrote to these folders, by the folder's name or as NAME=FOLDER",
    )
    group.add_argument(
        "--engine", metavar="ENGINE", help=f"run them on {engine_names()} (default: {FIRST_OF_PREFERRED})"
    )
    group.add_argument("--threads", type=threads, metavar="N", help=f"use N CPU threads (default: {THREADS_DEFAULT})")
    group.add_argument(
        "--batch",
        type=batch,
        default=8,
        metavar="N",
        help="run up to N waiting images at once (default: %(default)s)",
    )
    group.add_argument(
        "--topk", type=positive, metavar="N", help="give the N likeliest classes of each image (classification)"
    )
    group.add_argument("--threshold", type=share, metavar="SCORE", help="give boxes of at least this score (detection)")
    group = parser.add_argument_group("address")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="HOST", help="listen at this address (default: %(default)s)"
    )
    group.add_argument(
        "--port", type=port, default=8000, metavar="N", help="listen on this port, 0 for any (default: %(default)s)"
    )
    group.add_argument(
        "--token-file",
        type=path,
        metavar="FILE",
        help=f"ask for the bearer token that is the first line of this file (default: ${TOKEN}, or none)",
    )
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--queue",
        type=positive,
        default=128,
        metavar="N",
        help="answer 429 where N images of a model are accepted and not answered yet (default: %(default)s)",
    )
    group.add_argument(
        "--deadline",
        type=real,
        default=5.0,
        metavar="SECONDS",
        help="answer 504 to what has no result after this time (default: %(default)s)",
    )
    group.add_argument(
        "--max-mb",
        type=positive,
        default=16,
        metavar="N",
        help="answer 413 to a body of more than N MB (default: %(default)s)",
    )
    group.add_argument(
        "--max-pixels",
        type=positive,
        default=2**26,
        metavar="N",
        help="answer 413 to an image of more than N pixels (default: %(default)s)",
    )
    group.add_argument(
        "--drain",
        type=real,
        default=25.0,
        metavar="SECONDS",
        help="after SIGTERM, finish for at most this long what was accepted (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve; gives the exit status."""
    for name in ("deadline", "drain"):
        if not 0 < getattr(arguments, name) < 1e6:
            raise UserError(f"serve --{name} must be a positive number of seconds, got {getattr(arguments, name)}")
    try:
        from ppcls_ext.serve.limits import MEGABYTE, Limits
        from ppcls_ext.serve.model import GREY
        from ppcls_ext.serve.server import serve
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs the package {error.name}: python -m pip install 'pplcnet[serve]'") from error
    token = _token(arguments.token_file)
    if token is None and not _is_loopback(arguments.host):
        say(f"serve --host {arguments.host} without a token: whoever reaches it may use it (--token-file sets one)")
    least = GREY.shape[0] * GREY.shape[1]
    if arguments.max_pixels < least:
        raise UserError(f"serve --max-pixels {arguments.max_pixels}: give at least {least}, which its own probes have")
    size = arguments.max_mb * MEGABYTE
    limits = Limits(
        queue=arguments.queue,
        body_bytes=size,
        held_bytes=max(Limits.held_bytes, 2 * size),
        pixels=arguments.max_pixels,
        held_pixels=max(Limits.held_pixels, 2 * arguments.max_pixels),
        deadline_s=arguments.deadline,
        drain_s=arguments.drain,
    )
    given = {name: getattr(arguments, name) for name in ("topk", "threshold")}
    return serve(
        arguments.model,
        arguments.host,
        arguments.port,
        engine=arguments.engine,
        threads=arguments.threads,
        batch=arguments.batch,
        limits=limits,
        token=token,
        options={name: value for name, value in given.items() if value is not None},
    )


def _token(file: Path | None) -> str | None:
    """The token that requests must bear."""
    if file is None:
        token, where = os.environ.get(TOKEN), f"${TOKEN}"
        if token is None:
            return None
        token = token.strip()
    else:
        try:
            lines = read_text(file, LONGEST_TOKEN).splitlines()
        except Unreadable as error:
            raise UserError(f"serve --token-file {file}: {error}; give a file whose first line is the token") from error
        token, where = (lines[0].strip() if lines else ""), f"serve --token-file {file}"
    if not token or not token.isascii() or not token.isprintable():
        raise UserError(f"{where}: a token must be a line of plain ASCII characters")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
