"""The command line: `pplcnet COMMAND`, and the same as `tools/*.py`.

Exit status: 0 done, 1 a check failed, 2 bad input or usage, 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ppcls_ext.core.config import LATEST_STATE, Config, load_config, parse
from ppcls_ext.core.device import set_threads
from ppcls_ext.core.display import err
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.version import __version__
from ppcls_ext.runtime.engines import ENGINES


def _config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("-c", "--config", required=required, help="YAML file, a shipped config's name, or a run folder")
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the config: -o Global.epochs=10; may be repeated",
    )


def _load(arguments: argparse.Namespace) -> Config:
    config = load_config(arguments.config, arguments.override)
    set_threads(config.global_section.threads)
    return config


# Each command imports what it runs only then: the number of threads must be set before Paddle is imported.


def _train(arguments: argparse.Namespace) -> int:
    if arguments.resume and arguments.config:
        raise UserError("--resume continues with the run folder's own config: leave -c out, or use -o to change a key")
    if not arguments.resume and not arguments.config:
        raise UserError("train needs a config (-c FILE) or a run folder to go on with (--resume FOLDER)")
    if arguments.resume:
        if not (Path(arguments.resume) / LATEST_STATE).is_file():
            raise UserError(
                f"--resume {arguments.resume}: no {LATEST_STATE} there; give the run folder of a run that saved"
            )
        arguments.config = arguments.resume
        arguments.override.append(f"Global.checkpoints={arguments.resume}")
    config = _load(arguments)
    from ppcls_ext.training.trainer import Stopped, train

    try:
        train(config)
    except Stopped as stopped:
        return stopped.exit_status
    return 0


def _study(arguments: argparse.Namespace) -> int:
    # The number of threads is a key of the config that the study trains, which it reads once Paddle is there.
    given = [o.partition("=")[2] for o in arguments.override if o.startswith("Global.threads=")]
    set_threads(int(given[-1]) if given and given[-1].isdigit() else None)
    from ppcls_ext.paper.study import Study, show
    from ppcls_ext.training.trainer import Stopped

    try:
        show(Study(arguments.config, arguments.base, arguments.override, arguments.seeds, arguments.output))
    except Stopped as stopped:
        return stopped.exit_status
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    from ppcls_ext.deploy.evaluate import evaluate

    evaluate(config, arguments.save_dir, arguments.json, arguments.draw)
    return 0


def _check_data(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    from ppcls_ext.tasks.check_data import check_data

    return UserError.exit_status if check_data(config, arguments.picture) else 0


def _export(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    from ppcls_ext.deploy.export import export

    export(config, arguments.formats, not arguments.no_fold)
    return 0


def _infer(arguments: argparse.Namespace) -> int:
    if bool(arguments.model) == bool(arguments.config):
        raise UserError("infer needs either an exported folder (-m FOLDER) or a config or run folder (-c ...)")
    flags = {"topk": arguments.topk, "threshold": arguments.threshold}
    options = {name: value for name, value in flags.items() if value is not None}
    images = list(arguments.images)
    if arguments.save is not None and arguments.format == "table":
        raise UserError("infer --save writes what programs read: add --format json, csv or (detection) coco")
    config = None
    if arguments.config:
        if arguments.engine is not None:
            raise UserError(
                "infer --engine runs exported models: use it with -m; with -c the weights are run by dygraph"
            )
        if arguments.threads is not None:
            arguments.override.append(f"Global.threads={arguments.threads}")
        config = _load(arguments)
        section = config.get("Infer") or {}
        given = section.get("infer_imgs")
        images = images or ([given] if isinstance(given, str) else list(given or []))
        arguments.batch = arguments.batch or section.get("batch_size")
    elif arguments.override:
        raise UserError("infer -o changes a config: use it with -c; an exported model (-m) is fixed")
    if not images:
        raise UserError("infer needs images: files, folders or globs after -i")
    from ppcls_ext.deploy.infer import infer, open_exported, open_weights

    if config is not None:
        opened = open_weights(config, options)
    else:
        threads = set_threads(arguments.threads)
        opened = open_exported(arguments.model, arguments.engine or "onednn", threads, options)
    skipped = infer(images, opened, arguments.batch or 1, arguments.format, arguments.save, arguments.draw)
    return UserError.exit_status if skipped else 0


def _benchmark(arguments: argparse.Namespace) -> int:
    if arguments.iterations is not None and arguments.seconds is not None:
        raise UserError("benchmark takes either --iterations or --seconds")
    from ppcls_ext.bench.benchmark import Settings
    from ppcls_ext.bench.command import benchmark, subjects_from

    given = {
        key: getattr(arguments, key)
        for key in ("rounds", "processes", "seconds", "iterations", "warmup", "seed", "spread")
    }
    settings = parse(
        Settings,
        {**{key: value for key, value in given.items() if value is not None}, "pin": tuple(arguments.pin)},
        "benchmark",
    )
    size = tuple(arguments.size) if arguments.size else None
    subjects = subjects_from(
        arguments.model, arguments.engine, arguments.threads, arguments.batch, size, arguments.streams
    )
    benchmark(subjects, settings, arguments.json, arguments.compare, arguments.profile, arguments.soak)
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    set_threads(arguments.threads)
    from ppcls_ext.paper.reproduce import Plan, render, reproduce

    if arguments.render:
        render(arguments.out)
        return 0
    plan = Plan(
        tables=arguments.tables,
        engines=arguments.engines,
        threads=arguments.threads,
        out=arguments.out,
        work=arguments.work,
        runs=tuple(arguments.runs),
        quick=arguments.quick,
        resume=arguments.resume,
    )
    reproduce(plan)
    return 0


def names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'") from None


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(whole, names(text)))


def positive(text: str) -> int:
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line: the usage of a command is longer than a screen of errors."""

    def error(self, message: str) -> NoReturn:
        err.print(f"{self.prog}: {message}; see {self.prog} --help", markup=False, style="red")
        self.exit(UserError.exit_status)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="pplcnet", description="Fast vision models on the CPU, on PaddlePaddle.")
    parser.add_argument("--version", action="version", version=f"pplcnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a config, or go on with a run")
    _config_arguments(train, required=False)
    train.add_argument("--resume", metavar="FOLDER", help="run folder to go on with, exactly where it stopped")
    train.set_defaults(run=_train)

    study = commands.add_parser("study", help="train variants with several seeds, and compare them in a table")
    _config_arguments(study)
    study.add_argument("--base", metavar="CONFIG", help="train this config instead of the study's")
    study.add_argument("--seeds", type=int, nargs="+", help="instead of the study's")
    study.add_argument("--output", type=Path, metavar="FOLDER", help="for runs and report (default: output/STUDY)")
    study.set_defaults(run=_study)

    evaluate = commands.add_parser("eval", help="metrics, per-class table and pictures of a model")
    _config_arguments(evaluate)
    evaluate.add_argument("--save-dir", type=Path, help="folder for the report (default: eval/ in the run folder)")
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")
    evaluate.add_argument("--draw", type=Path, metavar="FOLDER", help="write pictures of the results there")
    evaluate.set_defaults(run=_eval)

    check = commands.add_parser("check-data", help="everything that is wrong with a config's data, and a picture of it")
    _config_arguments(check)
    check.add_argument("--picture", type=Path, metavar="FILE", help="write a picture of samples there (PNG)")
    check.set_defaults(run=_check_data)

    export = commands.add_parser("export", help="write a model for Paddle Inference, and check it on every engine")
    _config_arguments(export)
    export.add_argument(
        "--formats",
        choices=["both", "json", "pdmodel", "onnx", "all"],
        default="both",
        help="model formats to write (default both: json and pdmodel)",
    )
    export.add_argument("--no-fold", action="store_true", help="leave batch norms as they are")
    export.set_defaults(run=_export)

    infer = commands.add_parser("infer", help="predict on image files")
    _config_arguments(infer, required=False)
    infer.add_argument("-m", "--model", type=Path, help="folder that export wrote")
    infer.add_argument("-i", "--images", nargs="+", default=[], help="files, folders or globs")
    infer.add_argument(
        "--engine", help="native, onednn, openvino, onnxruntime or openvino-onnx (with -m; default onednn)"
    )
    infer.add_argument("--threads", type=positive, help="CPU threads (default: every usable core)")
    infer.add_argument("--batch", type=positive, help="images at once (default 1, or what a config's Infer says)")
    infer.add_argument("--topk", type=positive, help="classes to show for each image (classification)")
    infer.add_argument("--threshold", type=float, help="least score of a box to show (detection)")
    infer.add_argument("--format", default="table", help="table, json or csv; detection also coco (default table)")
    infer.add_argument("--save", type=Path, help="write json or csv there instead of on stdout")
    infer.add_argument("--draw", type=Path, metavar="FOLDER", help="write pictures of the results there")
    infer.set_defaults(run=_infer)

    bench = commands.add_parser("benchmark", help="how fast exported models run here, in figures that can be compared")
    bench.add_argument("-m", "--model", nargs="+", type=Path, required=True, help="folders that export wrote")
    bench.add_argument("--engine", nargs="+", default=["onednn"], help=f"{', '.join(ENGINES)} (default onednn)")
    bench.add_argument("--threads", nargs="+", type=positive, default=[1], help="one number, or several (default 1)")
    bench.add_argument("--batch", nargs="+", type=positive, default=[1], help="one number, or several (default 1)")
    bench.add_argument("--size", nargs=2, type=positive, metavar=("H", "W"), help="of inputs, where the model is free")
    bench.add_argument("--streams", type=positive, default=1, help="predictors at once, for throughput (default 1)")
    bench.add_argument("--rounds", type=positive, help="turns of each subject (default 60)")
    bench.add_argument("--processes", type=positive, help="of each subject, which share its rounds (default 4)")
    bench.add_argument("--seconds", type=float, help="of measuring for each subject (default 5)")
    bench.add_argument("--iterations", type=positive, help="calls of each subject, instead of --seconds")
    bench.add_argument("--warmup", type=positive, help="calls before measuring (default 20)")
    bench.add_argument("--seed", type=whole, help="of inputs and order (default 0)")
    bench.add_argument("--pin", nargs="+", type=whole, default=[], metavar="CORE", help="bind to these cores")
    bench.add_argument("--spread", type=float, help="interquartile range over median that is warned of (default 0.1)")
    bench.add_argument("--profile", action="store_true", help="also the time of each operator")
    bench.add_argument(
        "--soak", type=positive, metavar="N", help="also N runs at one and at many sizes: is memory steady?"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    bench.add_argument("--compare", type=Path, metavar="FILE", help="show what changed since that JSON")
    bench.set_defaults(run=_benchmark)

    tables = commands.add_parser("reproduce", help="the paper's tables beside this machine, as HTML and Markdown")
    tables.add_argument(
        "--tables", type=numbers, default=tuple(range(2, 10)), help="such as 2,3 (default: all, 2 to 9)"
    )
    tables.add_argument(
        "--engines", type=names, default=("onednn", "openvino"), help="such as onednn,native (default onednn,openvino)"
    )
    tables.add_argument("--threads", type=positive, default=1, help="CPU threads of each network (default 1)")
    tables.add_argument(
        "--out", type=Path, default=Path("output/tables"), help="folder of the report (default output/tables)"
    )
    tables.add_argument(
        "--work",
        type=Path,
        default=Path("output/reproduce"),
        help="where networks are exported to and found again (default output/reproduce)",
    )
    tables.add_argument("--runs", type=Path, nargs="+", default=[], help="run folders to take accuracies from")
    tables.add_argument("--quick", action="store_true", help="too few calls to rely on, but all of the way")
    tables.add_argument("--resume", action="store_true", help="keep the timings that an earlier run left in --out")
    tables.add_argument("--render", action="store_true", help="only write the report again from the values in --out")
    tables.set_defaults(run=_reproduce)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    arguments = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except (UserError, CheckFailed) as error:
        err.print(f"pplcnet {arguments.command}: {error}", markup=False, style="red")
        return error.exit_status
    except BrokenPipeError:  # the reader of our output went away, such as `| head`
        sys.stderr.close()
        return 0
    except OSError as error:  # a place that cannot be read or written
        err.print(f"pplcnet {arguments.command}: {error.filename}: {error.strerror}", markup=False, style="red")
        return UserError.exit_status
    except KeyboardInterrupt:
        err.print(f"pplcnet {arguments.command}: interrupted", style="red")
        return 130


if __name__ == "__main__":
    sys.exit(main())
