"""`make demo-serve`: the classification demo's model behind HTTP, asked, compared with `Predictor`, loaded, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.core.display import say
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.demo.steps import ROOT
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.runtime.results import Result
from ppcls_ext.serve.load import load

MODEL = ROOT / "classification" / "inference"
PICTURES = 12
CLIENTS = 8
LOADED_S = 5.0
HOSTILE = 0.05  # share of the requests that are hostile
CLOSE = 1e-3  # scores may differ by so much, since batches add up in another order
PATIENCE_S = 60.0


@contextlib.contextmanager
def service(model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`pplcnet serve` in a process of its own, at any free port of loopback, and its address."""
    command = Path(sys.executable).with_name("pplcnet")
    line = [str(command), "serve", "-m", f"digits={model}", "--port", "0", "--threads", "1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first:
                raise CheckFailed("demo-serve: the service has not started; it says why above")
            yield process, json.loads(first)["address"]
        finally:
            process.kill()


def ask(address: str, image: bytes) -> dict[str, Any]:
    """The dictionary of an image's result."""
    request = urllib.request.Request(f"{address}predict", image, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def check_answer(answer: dict[str, Any], result: Result, file: Path) -> None:
    """Raise CheckFailed where an answer is not what the Predictor gives."""
    ours = {p["class"]: p["score"] for p in answer["predictions"]}
    theirs = {p["class"]: p["score"] for p in result.to_dict()["predictions"]}
    if any(abs(ours[number] - theirs[number]) > CLOSE for number in ours.keys() & theirs.keys()) or (
        max(ours, key=lambda number: ours[number]) != max(theirs, key=lambda number: theirs[number])
    ):
        raise CheckFailed(f"demo-serve: {file}: the service and the Predictor differ")


def run_demo(model: Path, files: Sequence[Path]) -> None:
    """Serve the model, ask it, load it and stop it.

    Raises:
        CheckFailed: an answer differs, a request is lost, or the service does not end as it should.
    """
    images = [file.read_bytes() for file in files]
    with service(model) as (process, address):
        say(f"1/3  {address} serves {model}; {len(files)} pictures ...")
        with Predictor(model, threads=1) as predict:
            for file, image in zip(files, images, strict=True):
                check_answer(ask(address, image), predict(image), file)
        say("     each answer is what the Predictor gives")

        say(f"2/3  {CLIENTS} clients for {LOADED_S:g} s, 1 of {1 / HOSTILE:g} requests hostile ...")
        found = asyncio.run(load(address, images, CLIENTS, LOADED_S, hostile=HOSTILE))
        say(f"     {found.line.strip()}")
        if found.lost or set(found.statuses) != {200}:
            raise CheckFailed("demo-serve: good requests were lost or refused")

        say("3/3  stop it ...")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_S)
        events = [json.loads(line) for line in out.splitlines()]
        defects = [event for event in events if event["event"] in ("defect", "failure")]
        if process.returncode != 0 or defects:
            raise CheckFailed(f"demo-serve: the service ended with status {process.returncode} and {defects[:1]}")
        say(f"     it has answered {sum(event['event'] == 'request' for event in events)} requests and is gone")


def main() -> int:
    """Run the demo; gives the exit status."""
    try:
        files = sorted((ROOT / "data" / "val").rglob("*.png"))
        if not (MODEL / "inference.yml").is_file() or not files:
            raise UserError(f"{MODEL}: no exported model there; run `make demo` first")
        run_demo(MODEL, files[:: max(1, len(files) // PICTURES)][:PICTURES])
        say("")
        say(f"try it:  {Path(sys.executable).parent / 'pplcnet'} serve -m digits={MODEL}")
        say(f"         curl -H 'Content-Type: image/png' --data-binary @{files[0]} http://127.0.0.1:8000/predict")
        say("         page: http://127.0.0.1:8000/")
    except (UserError, CheckFailed) as error:
        say(str(error))
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
