"""The folder of a search: the files that it begins with, by which another one is told from it."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.core.config import LAST_WEIGHTS, LATEST_STATE
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.reading import Unreadable, read_text
from ppcls_ext.core.run_folder import has_ended
from ppcls_ext.core.text import SHOWN, one_line
from ppcls_ext.data.lists import LARGEST_FILE
from ppcls_ext.search.bound import space_around
from ppcls_ext.search.held_out import HeldOut
from ppcls_ext.search.space import Space


class SearchFolder:
    """Where a search leaves everything.

    Attributes:
        config: of the supernet, or of short trainings.
        space: name of the space, scale of PP-LCNet that it is around, side of the images.
        candidates: every network that was judged.
        networks: exports of those that are measured.
        front_page, front_json, front_picture: the front, and the files of the network that was chosen from it.
        chosen_run: where that network is trained.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.space = path / "supernet.yaml", path / "space.txt"
        self.candidates, self.networks = path / "candidates.json", path / "networks"
        self.front_page, self.front_json, self.front_picture = (
            path / "front.md",
            path / "front.json",
            path / "front.svg",
        )
        self.supernet, self.short = path / "supernet", path / "short"
        self.chosen_config, self.chosen_weights = path / "chosen.yaml", path / "chosen.pdparams"
        self.chosen_run = path / self.chosen_config.stem

    def check(self, config: str, space: Space, scale: float, held: HeldOut) -> None:
        """Raise UserError where the folder holds results of another search than one that begins with this."""
        if self.config.is_file() and self._has_results():  # the config is written last
            _check_space(self.space, _note(space, scale))
            _check_same(self.config, config)
            held.check_same()

    def _has_results(self) -> bool:
        """Whether anything was trained or judged here; a search that was refused before that is begun anew."""
        made = (self.supernet / LATEST_STATE, self.supernet / LAST_WEIGHTS, self.candidates, self.short)
        return any(path.exists() for path in made)

    def begin(self, config: str, space: Space, scale: float, held: HeldOut) -> None:
        """Write what the search begins with, after a `check`."""
        held.write()
        atomic_write_text(self.space, _note(space, scale))
        atomic_write_text(self.config, config)

    def space_of_supernet(self, named: Space, side: int) -> tuple[Space, float]:
        """The space that a supernet was trained for here, and the scale of PP-LCNet that it is around.

        Raises:
            UserError: it is no folder of a search, or of one in another space, or its supernet is not trained to its
                end.
        """
        try:
            name, scale, of_side = read_text(self.space, LARGEST_FILE).split()
            around = float(scale), int(of_side)
            space = space_around(named, *around)
        except (Unreadable, ValueError, OverflowError) as error:
            raise UserError(
                f"--supernet {self.path}: not the folder of a search; give that of one with --out"
            ) from error
        if (name, around[1]) != (named.name, side):
            raise UserError(
                f"--supernet {self.path}: its supernet is of the space {name} at {of_side} px, and this search of "
                f"{named.name} at {side} px; give the folder of a search in that space and size"
            )
        # Weights alone say little: each evaluation of a training writes them.
        if not (self.supernet / LAST_WEIGHTS).is_file() or not has_ended(self.supernet):
            cure = "go on with the search of that folder first" if self.supernet.is_dir() else "give another folder"
            raise UserError(f"--supernet {self.path}: no supernet was trained to its end there; {cure}")
        return space, around[0]


def _note(space: Space, scale: float) -> str:
    """What a folder says of the part of a space that is searched."""
    return f"{space.name} {scale:g} {space.input_sizes[0]}\n"


def _check_space(file: Path, text: str) -> None:
    """Raise UserError where a search in the folder has a space around another scale of PP-LCNet."""
    earlier = _text_of(file).split()
    (name, scale, size), now = earlier if len(earlier) == 3 else text.split(), text.split()
    if (name, size) == (now[0], now[2]) and scale != now[1]:
        has_supernet = (SearchFolder(file.parent).supernet / LAST_WEIGHTS).is_file()
        raise UserError(
            f"{file.parent}: it is of a search around PP-LCNet {scale}x, and by this latency and calibration it would "
            f"be around {now[1]}x; give another --out"
            + (f", with --supernet {file.parent} if its supernet is to be used" if has_supernet else "")
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
