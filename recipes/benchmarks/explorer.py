"""The explorer's page as whoever opens it waits for it: its first answer after the start, and what a slider changes."""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from ftmech_hf.models.loading import quiet_transformers
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.tasks import PcfgConfig, RowStream
from recipes.benchmarks.settings import JSON, SeedConfig

RECIPE = Path(__file__).parents[1] / "explore.py"
LONGEST_START = 600
"""Seconds after which a page that does not come is given up."""

SCALES = (0.9, 0.2, 0.5, 0.7, 0.0, 1.5, 0.4)
"""Where the slider is moved to, one after the other: no two that follow each other are the same edit."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SeedConfig):
    """Which pairs are opened, and how often."""

    preset: str = field(default="nano", metadata={"help": "size of a pair of random weights"})
    base: str | None = field(
        default=None, metadata={"place": "input", "help": "folder of a base to open as well, such as one of 135 M"}
    )
    finetuned: str | None = field(
        default=None, metadata={"place": "input", "help": "what it was fine-tuned into; may be an adapter"}
    )
    starts: int = field(default=5, metadata={"help": "starts of each page"})
    json: str = field(default="runs/benchmark-explorer.json", metadata=JSON)

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset)
        if self.starts < 1:
            raise ValueError(f"starts: {self.starts}, expected at least 1")
        if (self.base is None) != (self.finetuned is None):
            raise ValueError("finetuned: expected --base and --finetuned together")


def _save_pair(folder: Path, config: BenchmarkConfig, task: PcfgConfig) -> list[str]:
    """A base and what differs from it, of random weights; how the recipe is told of them."""
    words, told = task.vocabulary, []
    for number, role in enumerate(("base", "finetuned")):
        with quiet_transformers():
            build_model(find_preset(config.preset), len(words), seed=config.seed + number).save_pretrained(
                folder / role
            )
        save_tokenizer(build_tokenizer(words), folder / role)
        told += [f"--{role}", str(folder / role)]
    row = RowStream(task, seed=config.seed, split="test").rows(0, 1).token_ids[0, :-2]
    return [*told, "--prompts", " ".join(words[token] for token in row)]


@contextlib.contextmanager
def _page(arguments: list[str]) -> Iterator[tuple[httpx.Client, float, float]]:
    """A page once it holds an answer; seconds from its start until then, and CPU seconds of it and what it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(RECIPE), *arguments, "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONGEST_START) as client:
            while not _answers(client):
                if process.poll() is not None or time.perf_counter() - started > LONGEST_START:
                    raise ValueError("base: the explorer of this pair does not start, see above")
                time.sleep(0.02)
            seconds = time.perf_counter() - started
            known = psutil.Process(process.pid)
            spent = sum(sum(each.cpu_times()[:2]) for each in (known, *known.children(recursive=True)))
            yield client, seconds, spent
    finally:
        process.kill()
        process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return "fx-lead" in client.get("/").text
    except httpx.TransportError:
        return False


def _ask(client: httpx.Client, name: str, *given: object) -> float:
    """Seconds from a request of the page until it has the whole answer."""
    started = time.perf_counter()
    sent = client.post(f"/gradio_api/call/{name}", json={"data": list(given)})
    told = client.get(f"/gradio_api/call/{name}/{sent.json()['event_id']}").text
    assert "fx-lead" in told, told[:500]
    return time.perf_counter() - started


def _edits(client: httpx.Client) -> dict[str, list[float]]:
    """What is moved on the page -> seconds until the answer is there, each time."""
    settings = {each["props"].get("elem_id"): each["props"] for each in client.get("/config").json()["components"]}
    prompt, most = settings["prompt"]["value"], int(settings["directions"]["maximum"])
    site = settings["site"]["value"]
    whole = [prompt, 1, most, False, "none", site, 0]
    return {
        "scale of the weight change": [_ask(client, "ask", prompt, scale, *whole[2:]) for scale in SCALES],
        "directions kept": [
            _ask(client, "ask", prompt, 1, max(1, most // part), *whole[3:]) for part in range(2, 2 + len(SCALES))
        ],
        "a layer patched": [_ask(client, "ask", *whole[:4], donor, site, 0) for donor in ["base", "finetuned"] * 3],
        "beside the same edit at random": [_ask(client, "at_random", prompt, scale, *whole[2:]) for scale in SCALES],
    }


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """Starts and edits of a pair of random weights, and of one that was named."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = {config.preset: _save_pair(Path(folder), config, task)}
        if config.base is not None:
            pairs[Path(config.base).name] = ["--base", str(config.base), "--finetuned", str(config.finetuned)]
        for name, arguments in pairs.items():
            walls: list[float] = []
            spent: list[float] = []
            edits: dict[str, list[float]] = {}
            for _ in range(config.starts):
                with _page(arguments) as (client, seconds, cpu):
                    walls.append(seconds)
                    spent.append(cpu)
                    edits = edits or _edits(client)
            yield _row(name, "start to first answer", walls, statistics.median(spent))
            for what, times in edits.items():
                yield _row(name, what, times, None)


def _row(pair: str, what: str, seconds: list[float], cpu: float | None) -> dict[str, Any]:
    return {
        "pair": pair, "what": what, "times": len(seconds), "median_seconds": round(statistics.median(seconds), 3),
        "most_seconds": round(max(seconds), 3), "cpu_seconds": None if cpu is None else round(cpu, 2),
    }  # fmt: skip
