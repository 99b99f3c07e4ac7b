"""A search from its config to the files it leaves: data held out, a supernet or another judge, evolution, the front."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppcls_ext.core.config import LAST_WEIGHTS, LATEST_STATE, Config, dump_config, load_config
from ppcls_ext.core.device import set_device
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.reading import Unreadable, read_text
from ppcls_ext.core.text import SHOWN, one_line
from ppcls_ext.data.lists import LARGEST_FILE
from ppcls_ext.models.factory import SEARCHED
from ppcls_ext.models.network_spec import LARGEST_STRIDE, NetworkSpec, parse_spec
from ppcls_ext.models.spec import SCALES, SPECS, LCNetSpec, scale_name
from ppcls_ext.models.weights import load_into, read_weights, save_weights
from ppcls_ext.search.advise import own_calibrations
from ppcls_ext.search.bound import bounded_space, space_around
from ppcls_ext.search.calibrate import Benchmark, run_lean
from ppcls_ext.search.evolution import Evolution, SearchedNetwork
from ppcls_ext.search.front import Front, Measuring, measured_front, misses, write_front
from ppcls_ext.search.held_out import HeldOut, check_task, hold_out
from ppcls_ext.search.judge import Judge, Quality
from ppcls_ext.search.latency import LatencyModel
from ppcls_ext.search.sandwich import SandwichTask
from ppcls_ext.search.scores import Scorer, rank_correlations
from ppcls_ext.search.short import ShortTraining
from ppcls_ext.search.space import Space, space_named
from ppcls_ext.search.supernet import Supernet
from ppcls_ext.search.wish import Wish
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.trainer import train_task

Ranks = dict[str, tuple[float, float]]  # the correlation of each score, and its p
EVALUATIONS = 5  # while a supernet trains, to see that it learns; more would only take time
GUESSING = 1.5  # times the share of one class: what is judged worse has learned nothing
SPACE_FILE = "space.txt"  # name of the space, scale of PP-LCNet that it is around, side of the images
NOTHING_LEARNED = "warning: no network is judged much better than guessing, so their order says nothing; give --epochs"
KINDS_DRAWN = 64  # networks in which every kind of block of a space is found
FEWEST_RANKED = 5  # networks to say how far scores rank them as training does


class Search:
    """One search. Making it reads config, data and calibration, and finds the part of the space that fits.

    Raises:
        UserError: wrong config, data, calibration or bound.
    """

    def __init__(self, wish: Wish, benchmark: Benchmark = run_lean) -> None:
        self.wish, self.benchmark = wish, benchmark
        given = load_config(wish.config, wish.overrides)
        given.pop("Expect", None)  # what the config promises is of another network
        self.user_task = make_task(given)
        check_task(self.user_task)
        self.model, self.doubt = _latency_model(wish)
        self.class_num = self.user_task.class_num
        size = _side(self.user_task)
        named = space_named(wish.space)
        unknown = unknown_parts(self.model, named.replace(input_sizes=(size,)))
        if unknown:
            raise UserError(
                f"space '{named.name}': the calibration has no {', '.join(unknown)}; make one of this space: pplcnet "
                f"search --calibrate --space {named.name} --engine {wish.engine} --threads {wish.threads}"
            )
        self.bound = self._bound(size)
        if wish.supernet is None:
            self.space, self.scale = bounded_space(named, self.latency, self.bound, size)
        else:
            self.space, self.scale = _space_of(wish.supernet, named, size)
        held = hold_out(self.user_task, wish.out)
        if wish.supernet is not None:
            held.check_unseen(wish.supernet)
        self.file = wish.out / "supernet.yaml"
        self._write_config(load_config(wish.config, [*wish.overrides, *held.overrides, *self._length()]), held)
        self.task = make_task(load_config(self.file))

    def latency(self, spec: NetworkSpec) -> float:
        """Predicted milliseconds of a network with the head of the task."""
        return self.model.predict(spec, self.class_num)

    def _bound(self, size: int) -> float:
        wish = self.wish
        if wish.latency is not None:
            return wish.latency
        if wish.like not in SPECS:
            raise UserError(f"--like {wish.like}: no network of that name; {nearest(str(wish.like), SPECS)}")
        return self.latency(SPECS[wish.like].network().replace(input_size=size))

    def _length(self) -> list[str]:
        return [] if self.wish.epochs is None else [f"Global.epochs={self.wish.epochs}"]

    def _write_config(self, config: Config, held: HeldOut) -> None:
        """The config of the supernet, or of short trainings; a scale of PP-LCNet stands in it for the networks.

        Nothing is written where the folder is of another search.
        """
        config.pop("Expect", None)
        near = LCNetSpec(scale=self.scale).network()
        config["Arch"] = {"name": SEARCHED, "arch": near.text, "class_num": self.class_num}
        interval = max(1, config.global_section.epochs // EVALUATIONS)
        config["Global"].update(output_dir=str(self.wish.out), use_visualdl=False, eval_interval=interval)
        if self.wish.accuracy != "supernet":  # every network has other shapes
            config["Global"].update(pretrained_model=None)
        text, where = dump_config(config), self.wish.out / SPACE_FILE
        space = f"{self.space.name} {self.scale:g} {self.space.input_sizes[0]}\n"
        if self.file.is_file():  # it is written last
            _check_space(where, space)
            _check_same(self.file, text)
            held.check_same()
        held.write()
        atomic_write_text(where, space)
        atomic_write_text(self.file, text)

    # Running

    def run(self) -> Front:
        """Search, measure the front and write everything.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the same command goes on.
            UserError: wrong data; files of another search in the folder.
        """
        wish = self.wish
        around = f"around PP-LCNet {self.scale:g}x; {self.space.size:.1e} networks"
        say(f"at most {self.bound:.3g} ms predicted, {around}")
        if self.doubt:
            say(f"warning: {self.doubt}")
        set_device(self.task.global_section.device)
        judge = Judge(self.task)
        scorer = Scorer(self.class_num, self.task.global_section.seed, self.task.made_fast)
        population, generations = wish.sizes
        evolution = Evolution(
            self.space, self.latency, self.bound, wish.out / "candidates.json", self._identity(),
            self.model.fingerprint, self.task.global_section.seed, population, generations,
            scorer if wish.accuracy == "short" else None,
        )  # fmt: skip
        evolution.check()
        supernet = self._supernet() if wish.accuracy == "supernet" else None
        candidates = evolution.run(self._quality(judge, scorer, supernet))
        ranks = self._ranks(candidates, scorer)
        return self._finish(candidates, judge, supernet, self._conditions(candidates, ranks))

    def _quality(self, judge: Judge, scorer: Scorer, supernet: Supernet | None) -> Callable[[NetworkSpec], Quality]:
        """What judges networks."""
        if supernet is not None:
            return lambda spec: judge.quality(self.task.made_fast(supernet.cut(spec).network))
        if self.wish.accuracy == "short":
            return ShortTraining(load_config(self.file), self.wish.out / "short", judge)
        return lambda spec: Quality(scorer(spec), 0.0)

    def _identity(self) -> dict[str, Any]:
        """What candidates depend on, beside the data and the calibration."""
        return {
            "space": f"{self.space.name} around {self.scale:g}x at {self.space.input_sizes[0]} px",
            "bound": round(self.bound, 6) if self.wish.like is None else self.wish.like,
            "engine": self.wish.engine,
            "threads": self.wish.threads,
            "accuracy": self.wish.accuracy,
            "seed": self.task.global_section.seed,
            "sizes": list(self.wish.sizes),
            "supernet": None if self.wish.supernet is None else str(self.wish.supernet.resolve()),
        }

    @property
    def _supernet_run(self) -> Path:
        return (self.wish.supernet or self.wish.out) / "supernet"

    def _supernet(self) -> Supernet:
        """The trained supernet: that of an earlier search, or one that is trained now, or on."""
        run = self._supernet_run
        if self.wish.supernet is None:
            going_on = (run / LATEST_STATE).is_file()
            task = make_task(load_config(run, [f"Global.checkpoints={run}"])) if going_on else self.task
            train_task(SandwichTask(task, self.space))
        model, file = Supernet(self.space, self.class_num), run / LAST_WEIGHTS
        load_into(model, read_weights(file), file)
        return model

    def _ranks(self, candidates: list[SearchedNetwork], scorer: Scorer) -> Ranks:
        """How far scores rank networks as their judge does: of random ones, since bred ones are all alike."""
        drawn = [c for c in candidates if c.generation == 0]
        if self.wish.accuracy == "scores" or len(drawn) < FEWEST_RANKED:
            return {}
        return rank_correlations(scorer, [c.spec for c in drawn], [c.expected for c in drawn])

    def _finish(
        self,
        candidates: list[SearchedNetwork],
        judge: Judge,
        supernet: Supernet | None,
        conditions: list[str],
    ) -> Front:
        wish, size = self.wish, self.space.input_sizes[0]
        measuring = Measuring(wish.engine, wish.threads, self.class_num, wish.out / "networks", self.benchmark)
        scales = {
            f"PPLCNet_{scale_name(scale)}": LCNetSpec(scale=scale).network().replace(input_size=size)
            for scale in SCALES
            if 0.5 * self.scale <= scale <= 1.5 * self.scale
        }
        if wish.like is not None:
            scales.setdefault(wish.like, SPECS[wish.like].network().replace(input_size=size))
        front = measured_front(
            candidates, scales, self.latency, self.bound, measuring, conditions, wish.like, wish.accuracy == "scores"
        )
        page = write_front(front, candidates, self._resolved(), wish.out)
        for line in misses(front):
            say(f"the latency model was off: {line}")
        if supernet is not None:
            self._save_weights(front, judge, supernet)
        say(f"{page}; {front.chosen.arch}: {front.chosen.measured:.3f} ms measured")
        say(f"train it: pplcnet train -c {wish.out / 'chosen.yaml'}")
        return front

    def _save_weights(self, front: Front, judge: Judge, supernet: Supernet) -> None:
        """The chosen network's share of the supernet, with statistics of its own, to start a training from."""
        subnet = supernet.cut(parse_spec(front.chosen.arch))
        judge.quality(subnet.network)
        save_weights(self.wish.out / "chosen.pdparams", supernet.weights_of(subnet))

    def _resolved(self) -> Config:
        return self.user_task.resolved()

    def _conditions(self, candidates: list[SearchedNetwork], ranks: Ranks) -> list[str]:
        """What was searched how, and why it may be wrong, a line each."""
        wish, target = self.wish, self.model.target
        judged = {
            "supernet": "a supernet of {length}, whose networks share weights",
            "short": "a training of {length} of each network",
            "scores": "the Zen score alone, which ranks networks badly",
        }[wish.accuracy].format(length=self._trained(candidates))
        lines = [
            f"{self.space.name} around PP-LCNet {self.scale:g}x at {self.space.input_sizes[0]} px, {self.class_num} "
            f"classes; at most {self.bound:.3g} ms" + (f", as {wish.like}" if wish.like else ""),
            f"judged by {judged}; seed {self.task.global_section.seed}",
            f"{target.cpu[0]}, {target.engine}, {target.threads} thread{'s' * (target.threads != 1)}; "
            + ", ".join(f"{name} {version}" for name, version in target.versions.items()),
        ]
        if self.doubt:
            lines.append(f"warning: {self.doubt}")
        if wish.accuracy != "scores" and max(c.expected for c in candidates) < GUESSING / self.class_num:
            lines.append(NOTHING_LEARNED)
            say(NOTHING_LEARNED)
        if ranks:
            words = ", ".join(f"{name} {rho:+.2f}" for name, (rho, _) in ranks.items())
            lines.append(f"rank correlation with what the judge says, of the networks drawn at random: {words}")
        return lines

    def _trained(self, candidates: list[SearchedNetwork]) -> str:
        """How long what judges was trained, as its run folder says: a small set is given more epochs."""
        if self.wish.accuracy == "scores":
            return ""
        short = self.wish.out / "short" / candidates[0].spec.name
        section = load_config(short if self.wish.accuracy == "short" else self._supernet_run).global_section
        return f"{section.iters} steps" if section.iters else f"{section.epochs} epochs"


def _latency_model(wish: Wish) -> tuple[LatencyModel, str]:
    """The model of this machine, engine and number of threads, and why it may be off; empty where it was accepted."""
    files = [] if wish.calibration is None else [wish.calibration]
    for calibration in own_calibrations(wish.threads, files, wish.space):
        if calibration.target.engine == wish.engine and calibration.model is not None:
            return calibration.model, calibration.doubt
    raise UserError(
        f"no calibration of {wish.engine} with {wish.threads} threads; make one: pplcnet search --calibrate "
        f"--engine {wish.engine} --threads {wish.threads}"
    )


def _side(task: Task) -> int:
    """Side of the images of a task in pixels. Raises UserError for one that no network of a space is for."""
    _, height, width = task.global_section.image_shape
    if height != width or height % LARGEST_STRIDE:
        raise UserError(
            f"Global.image_shape: a search needs square images with sides that {LARGEST_STRIDE} divides, such as "
            f"[3,128,128], got {height} x {width}"
        )
    return height


def unknown_parts(model: LatencyModel, space: Space) -> list[str]:
    """Kinds of operations in a space that a latency model has no price for."""
    found = {part for spec in [space.largest(), *_drawn(space)] for part in model.unknown(spec)}
    return sorted(found)


def _drawn(space: Space) -> list[NetworkSpec]:
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(KINDS_DRAWN)]


def _check_space(file: Path, text: str) -> None:
    """Raise UserError where a search in the folder has a space around another scale of PP-LCNet."""
    earlier = _text_of(file).split()
    (name, scale, size), now = earlier if len(earlier) == 3 else text.split(), text.split()
    if (name, size) == (now[0], now[2]) and scale != now[1]:
        raise UserError(
            f"{file.parent}: it is of a search around PP-LCNet {scale}x, and by this latency and calibration it would "
            f"be around {now[1]}x; give another --out, with --supernet {file.parent} if its supernet is to be used"
        )


def _text_of(file: Path) -> str:
    """A text that a search wrote. Raises UserError."""
    try:
        return read_text(file, LARGEST_FILE)
    except Unreadable as error:
        raise UserError(f"{file}: {error}; give another --out") from error


def _check_same(file: Path, text: str) -> None:
    """Raise UserError where a file says something else: what was trained by it is of no use."""
    earlier = _text_of(file)
    changed = [line.strip() for line in text.splitlines() if line not in earlier.splitlines()]
    if earlier != text:
        raise UserError(
            f"{file}: it is of a search with other settings (now '{one_line(changed[0] if changed else '', SHOWN)}'); "
            "give another --out, or remove that folder"
        )


def _space_of(folder: Path, named: Space, size: int) -> tuple[Space, float]:
    """The space that an earlier search has trained a supernet for."""
    try:
        name, scale, of_size = read_text(folder / SPACE_FILE, LARGEST_FILE).split()
        around = float(scale), int(of_size)
        space = space_around(named, *around)
    except (Unreadable, ValueError, OverflowError) as error:
        raise UserError(f"--supernet {folder}: not the folder of a search; give that of one with --out") from error
    if (name, around[1]) != (named.name, size) or not (folder / "supernet" / LAST_WEIGHTS).is_file():
        raise UserError(
            f"--supernet {folder}: its supernet is of the space {name} at {of_size} px, or not trained to its end; "
            f"this search is of {named.name} at {size} px"
        )
    return space, around[0]


def find(wish: Wish) -> Front:
    """Search as wished. Raises what `Search` does."""
    return Search(wish).run()
