"""Runs attacks one seed after the other, and counts what came of them."""

import json
import os
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import pyroscvi

HOME = str(Path(pyroscvi.__file__).parent)
GOOD = ("right", "refused in words", "impossible")  # impossible: anndata or the file format refuses to make the input
MEMORY = 12 << 30  # bytes that a child may allocate


@dataclass
class Outcome:
    """What an attack led to.

    result   "right", "refused in words", "impossible"; or a defect: "raised from inside", "accepted wrongly",
             "refused wrongly", "crash", "took too long"
    what     the input, in a few words
    detail   the message, or what is wrong
    """

    result: str
    what: str = ""
    detail: str = ""

    @property
    def good(self) -> bool:
        return self.result in GOOD


def refusal(error: BaseException, what: str = "") -> Outcome:
    """The outcome of an exception: our own words are raised by a line of ours, or say which file cannot be read."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(HOME)]
    in_words = isinstance(error, ValueError | TypeError | KeyError | OSError) and frames[-1].filename.startswith(HOME)
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside"
    result = "refused in words" if in_words else "raised from inside"
    return Outcome(result, what, f"{type(error).__name__} at {place}: {error}"[:400])


def isolated(attack: Callable[[], Outcome], what: str = "", seconds: int = 60) -> Outcome:
    """The outcome of an attack in a child process, which may crash, hang or run out of memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            signal.alarm(seconds)
            try:
                outcome = attack()
            except BaseException as error:
                outcome = refusal(error, what)
            os.write(writer, json.dumps(asdict(outcome)).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(child, 0)[1]
    if answer:
        return Outcome(**json.loads(answer))
    timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
    return Outcome("took too long" if timed_out else "crash", what, f"status {status}")


@dataclass
class Summary:
    """Counts by attack and result, and the seeds of the inputs that showed a defect."""

    counts: dict[str, Counter] = field(default_factory=dict)
    defects: list[tuple[str, int, Outcome]] = field(default_factory=list)

    def add(self, attack: str, seed: int, outcome: Outcome) -> None:
        self.counts.setdefault(attack, Counter())[outcome.result] += 1
        if not outcome.good:
            self.defects.append((attack, seed, outcome))

    def __str__(self) -> str:
        rows = [
            f"{name:10}  {sum(counts.values()):6,} inputs:  {_listed(counts)}" for name, counts in self.counts.items()
        ]
        shown = [f"{name} --seed {seed}  [{o.what}]  {o.result}: {o.detail}" for name, seed, o in self.defects[:100]]
        more = [f"and {len(self.defects) - 100:,} more"] if len(self.defects) > 100 else []
        return "\n".join([*rows, f"{len(self.defects):,} defects", *shown, *more])


def _listed(counts: Counter) -> str:
    return ", ".join(f"{count:,} {result}" for result, count in counts.most_common())


def run(attacks: Iterable[tuple[str, Callable[[int], Outcome], Iterable[int]]], progress: bool = False) -> Summary:
    """Run each attack with each of its seeds."""
    summary = Summary()
    torch.set_num_threads(1)
    for name, attack, seeds in attacks:
        for done, seed in enumerate(seeds, 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                summary.add(name, seed, _outcome(attack, seed))
            if progress and done % 100 == 0:
                print(f"{name}: {done:,} inputs, {len(summary.defects):,} defects", file=sys.stderr)
    return summary


def _outcome(attack: Callable[[int], Outcome], seed: int) -> Outcome:
    try:
        return attack(seed)
    except Exception as error:
        return refusal(error)


def state_of(fit: Any) -> list[torch.Tensor]:
    """All parameters and buffers of a fit, to compare two fits bit by bit."""
    return [*fit.model.state_dict().values(), *fit.guide.state_dict().values()]


def same(first: Any, second: Any) -> bool:
    """Whether two fits agree in every bit."""
    return all(torch.equal(a, b) for a, b in zip(state_of(first), state_of(second), strict=True))
