"""The steps that the demos of the three tasks are made of. They write below `output/demo/` of the current folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ppcls_ext.core.config import BEST_WEIGHTS, Config, load_config
from ppcls_ext.core.device import set_threads
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.text import assignment

ROOT = Path("output") / "demo"
TRUNK = ROOT / "classification" / BEST_WEIGHTS  # what the other demos start from
MADE_BY = "made_by_the_demo"  # marks folders that a later demo may replace


def fresh_folder(folder: Path) -> Path:
    """An empty folder for a demo; what an earlier demo left there is removed, anything else is not touched.

    Raises:
        UserError: the folder holds something that no demo made.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MADE_BY).is_file():
            raise UserError(f"demo folder {folder}: it holds something else; run the demo from another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MADE_BY).touch()
    return folder


def run_steps(
    config: Config, images: Callable[[], Sequence[str]], metric: str, goal: float, columns: int = 6
) -> dict[str, Path]:
    """Train, evaluate, export and predict with oneDNN; gives where everything is.

    Args:
        images: files to predict on, for the picture.
        metric, goal: what the demo promises to exceed.
    Raises:
        CheckFailed: the result is not above `goal`.
    """
    from ppcls_ext.core.pictures import contact_sheet, draw_curves, save_image
    from ppcls_ext.core.run_folder import LOG, read_log
    from ppcls_ext.deploy.evaluate import evaluate
    from ppcls_ext.deploy.export import export
    from ppcls_ext.runtime.predictor import Predictor
    from ppcls_ext.training.trainer import train

    begin = time.monotonic()
    say("1/4  train")
    run = train(config)
    curves = run.path / "training.png"
    draw_curves(curves, read_log(run.path / LOG), metric)

    say("")
    say("2/4  evaluate")
    trained = load_config(run.path)
    value = evaluate(trained)[metric]

    say("")
    say("3/4  export, and check every engine against dygraph")
    exported = export(trained)

    say("")
    say("4/4  predict with Paddle Inference and oneDNN")
    with Predictor(exported, "onednn", threads=1) as predictor:
        pictures = [result.plot() for result in predictor.stream(images())]
    sheet = run.path / "predictions.png"
    save_image(sheet, contact_sheet(pictures, columns))

    say("")
    say(f"{metric} {value:.4f} in {time.monotonic() - begin:.0f} s")
    files = {"run folder": run.path, "training curve": curves, "predictions": sheet, "exported model": exported}
    for name, file in files.items():
        say(f"  {name + ':':16} {file}")
    if value <= goal:
        raise CheckFailed(f"demo: {metric} is {value:.4f}, it should be above {goal}")
    return files


def run_demo(
    root: Path,
    task: str,
    config_name: str,
    make_data: Callable[[Path], None],
    images: Callable[[Path], Sequence[str]],
    metric: str,
    goal: float,
    try_it: str,
    columns: int = 6,
    trunk: Path | None = None,
) -> int:
    """A whole demo in `root`; gives the exit status.

    Args:
        task: names the run folder below `root`.
        make_data: writes the data set into a folder.
        images: files of that folder to predict on, for the picture.
        metric, goal: what the demo promises to exceed.
        try_it: images and flags of a command to try at the end; `{data}` stands for the folder of the data.
        trunk: weights to start from, where they are there.
    """
    try:
        folder = fresh_folder(root)
        data = folder / "data"
        make_data(data)
        overrides = [assignment("Global.data_root", data), assignment("Global.output_dir", folder)]
        if trunk is not None and trunk.is_file():
            overrides.append(assignment("Global.pretrained_model", trunk))
        elif trunk is not None:
            say(f"no {trunk}: the trunk starts from scratch (`make demo` trains it)")
        config = load_config(config_name, overrides)
        set_threads(config.global_section.threads)
        config.path = Path(f"{task}.yaml")
        files = run_steps(config, lambda: images(data), metric, goal, columns)
        say("")
        say(f"try it:  pplcnet infer -m {files['exported model']} -i {try_it.format(data=data)}")
    except (UserError, CheckFailed) as error:
        say(f"{root.name}: {error}")
        return error.exit_status
    return 0
