"""A search from its config to the files it leaves: data held out, a supernet or another judge, evolution, the front."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ppcls_ext.core.config import LAST_WEIGHTS, LATEST_STATE, Config, dump_config, load_config
from ppcls_ext.core.device import set_device
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.text import assignment, counted, fault_of_name, one_line
from ppcls_ext.models.factory import SEARCHED
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.models.weights import load_into, read_weights, save_weights
from ppcls_ext.search.aim import Aim, aim_of
from ppcls_ext.search.calibrate import Benchmark, run_lean
from ppcls_ext.search.conditions import NOTHING_LEARNED, conditions_of, nothing_learned, ranks_of, seen_before
from ppcls_ext.search.evolution import Evolution, SearchedNetwork
from ppcls_ext.search.folder import SearchFolder
from ppcls_ext.search.front import Front, Measuring, gains, measured_front, missed, misses, write_front
from ppcls_ext.search.held_out import HeldOut, hold_out
from ppcls_ext.search.judge import Judge, Quality
from ppcls_ext.search.sandwich import SandwichTask
from ppcls_ext.search.scores import Scorer
from ppcls_ext.search.short import ShortTraining
from ppcls_ext.search.supernet import Supernet
from ppcls_ext.search.wish import Wish
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.trainer import train_task

EVALUATIONS = 5  # while a supernet trains, to see that it learns; more would only take time


class Search:
    """One search. Making it reads config, data and calibration, and writes nothing.

    Raises:
        UserError: wrong config, data, calibration or bound; a folder of another search.
    """

    def __init__(self, wish: Wish, benchmark: Benchmark = run_lean) -> None:
        self.wish, self.benchmark = wish, benchmark
        fault = fault_of_name(str(wish.out.absolute()))
        if fault is not None:
            raise UserError(
                f"--out {one_line(wish.out)}: its path {fault}, and configs name files in it; give another one"
            )
        self.aim, self.folder = aim_of(wish), SearchFolder(wish.out)
        held = hold_out(self.aim.task, wish.out)
        if wish.supernet is not None:
            held.check_supernet(wish.supernet)
        self._start = dump_config(_judging_config(self.aim, held)), self.aim.space, self.aim.scale, held
        self.folder.check(*self._start)
        self.aim.task.train_loader()  # refuses what cannot be trained on, such as one class
        self.scorer = Scorer(self.aim.class_num, self.aim.task.global_section.seed, self.aim.task.made_fast)
        self.evolution = self._evolution()
        self.evolution.check()

    def run(self) -> Front:
        """Search, measure the front and write everything.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the same command goes on.
            UserError: wrong data; files of another search in the folder, or another process that writes there.
        """
        with FolderLock(self.folder.path, "search folder", "search.lock"):
            return self._run(self.begin())

    def begin(self) -> Task:
        """Write what the folder begins with; gives the task of the supernet, or of short trainings.

        Raises:
            UserError: files of another search in the folder, which has come between.
        """
        self.folder.check(*self._start)
        self.folder.begin(*self._start)
        return make_task(load_config(self.folder.config))

    def _run(self, task: Task) -> Front:
        aim = self.aim
        say(f"at most {aim.bound:.3g} ms predicted, around PP-LCNet {aim.scale:g}x; {aim.space.size:.1e} networks")
        for doubt in aim.doubts:
            say(f"warning: {doubt}")
        if seen := seen_before(aim):
            say(seen)
        set_device(task.global_section.device)
        if self.wish.accuracy == "scores":
            task.keep_memory()  # else the judge or a training does
        judge = Judge(task)
        supernet = self._supernet(task, judge) if self.wish.accuracy == "supernet" else None
        found = self.evolution.run(self._quality(task, judge, supernet))
        labels = task.data.eval_split.labels
        learned = not nothing_learned(aim, found, labels)
        if not learned:
            say(NOTHING_LEARNED)
        conditions = conditions_of(aim, found, labels, self._length(found), ranks_of(aim, found, self.scorer))
        front = self._measured(found, conditions, learned)
        if supernet is not None:
            self._save_weights(front, judge, supernet)
        write_front(front, found, aim.task.resolved(), self.folder)
        if line := missed(front):
            say(f"warning: {line}")
        for line in misses(front):
            say(f"the latency model was off: {line}")
        for line in gains(front):
            say(f"judged no worse, and faster: {line}")
        say(f"{self.folder.front_page}; chosen: {front.chosen.name}, {front.chosen.measured:.3f} ms measured")
        say(f"train it: pplcnet train -c {self.folder.chosen_config}")
        return front

    def _evolution(self) -> Evolution:
        aim, (population, generations) = self.aim, self.wish.sizes
        return Evolution(
            aim.space, aim.latency, aim.bound, self.folder.candidates, aim.identity(), aim.model.fingerprint,
            self.scorer.seed, population, generations, self.scorer if self.wish.accuracy == "short" else None,
        )  # fmt: skip

    @property
    def _supernet_run(self) -> Path:
        return (self.folder if self.wish.supernet is None else SearchFolder(self.wish.supernet)).supernet

    def _supernet(self, task: Task, judge: Judge) -> Supernet:
        """The trained supernet: that of an earlier search, or one that is trained now, or on."""
        run = self._supernet_run
        if self.wish.supernet is None:
            going_on = (run / LATEST_STATE).is_file()
            if going_on:
                task = make_task(load_config(run, [assignment("Global.checkpoints", run)]))
            train_task(SandwichTask(task, self.aim.space, judge=judge))
        model, file = Supernet(self.aim.space, self.aim.class_num), run / LAST_WEIGHTS
        load_into(model, read_weights(file), file)
        return model

    def _quality(self, task: Task, judge: Judge, supernet: Supernet | None) -> Callable[[NetworkSpec], Quality]:
        """What judges networks."""
        if supernet is not None:
            return lambda spec: judge.quality(task.made_fast(supernet.cut(spec).network))
        if self.wish.accuracy == "short":
            return ShortTraining(load_config(self.folder.config), self.folder.short, judge)
        return lambda spec: Quality(self.scorer(spec), 0.0)

    def _length(self, found: list[SearchedNetwork]) -> str:
        """How long what judges was trained, as its run folder says: a small set is given more epochs."""
        if self.wish.accuracy == "scores":
            return ""
        run = self.folder.short / found[0].spec.name if self.wish.accuracy == "short" else self._supernet_run
        section = load_config(run).global_section
        return counted(section.iters, "step") if section.iters else counted(section.epochs, "epoch")

    def _measured(self, found: list[SearchedNetwork], conditions: list[str], learned: bool) -> Front:
        """The front, measured."""
        wish, aim = self.wish, self.aim
        measuring = Measuring(wish.engine, wish.threads, aim.class_num, self.folder.networks, self.benchmark)
        return measured_front(
            found, aim.named(), aim.latency, aim.bound, measuring, conditions, wish.like,
            by_score=wish.accuracy == "scores", learned=learned,
        )  # fmt: skip

    def _save_weights(self, front: Front, judge: Judge, supernet: Supernet) -> None:
        """The chosen network's share of the supernet, with statistics of its own, to start a training from."""
        subnet = supernet.cut(parse_spec(front.chosen.arch))
        judge.quality(subnet.network)
        save_weights(self.folder.chosen_weights, supernet.weights_of(subnet))


def _judging_config(aim: Aim, held: HeldOut) -> Config:
    """The config of the supernet, or of short trainings; a scale of PP-LCNet stands in it for the networks."""
    wish = aim.wish
    length = [] if wish.epochs is None else [f"Global.epochs={wish.epochs}"]
    config = load_config(wish.config, [*wish.overrides, *held.overrides, *length])
    config.pop("Expect", None)
    near = LCNetSpec(scale=aim.scale).network()
    config["Arch"] = {"name": SEARCHED, "arch": near.text, "class_num": aim.class_num}
    interval = max(1, config.global_section.epochs // EVALUATIONS)
    config["Global"].update(output_dir=str(wish.out), use_visualdl=False, eval_interval=interval)
    if wish.accuracy != "supernet":  # every network has other shapes
        config["Global"].update(pretrained_model=None)
    return config


def find(wish: Wish) -> Front:
    """Search as wished. Raises what `Search` does."""
    return Search(wish).run()
