"""Correctness and speed on a GPU, in one command of at most eight minutes that builds nothing and needs no network.

    python benchmarks/gpu.py --out results              the first CUDA device
    python benchmarks/gpu.py --device cpu --quick       every step at a small size, where there is no GPU

likelihoods   log p and its derivatives on the device, against values computed with 50 digits
pages         loss and gradients of every model under every guide, on the device and on the CPU, from the same draws
fits          a short fit of every model under every guide on the device; the compiled step beside the eager one
training      cells a second at minibatches of 128 and 1,024, 2,000 and 6,000 genes, beside scvi-tools if installed
evidence      seconds for the evidence of a thousand cells, and its largest standard error

Each line says what was measured, the value, the aim and whether the value meets it. A section that has no time left is
listed as not measured. The exit status is 1 if one line does not meet its aim.
"""

import argparse
import copy
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from common import drawn, markdown, measured_with, write
from epochs import Ours, Peer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.data.graph import nearest
from pyroscvi.evidence import Reader, evidences
from pyroscvi.guides import MeanField
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, ZINB, BatchNorm, LatentSize, ReadCell

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from reference import likelihoods as exact

DTYPES = {"float32": (torch.float32, 5e-6, 1e-5), "float64": (torch.float64, 1e-13, 1e-12)}  # errors of log p, slopes
LOSS, GRADIENT = 1e-5, 1e-4  # relative differences between two devices in float32
PEER = {128: 10.0, 1024: 5.0}  # how many times the cells a second of scvi-tools on the same card


class Line(NamedTuple):
    what: str
    value: float
    aim: str = ""
    holds: bool | None = None  # None where there is no aim


class DrawnOnCPU(TorchDispatchMode):
    """Random numbers come from the generator of the CPU, so that two devices draw the same ones."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in op.tags:
            return op(*args, **kwargs)
        device = kwargs.get("device") or next(a.device for a in args if isinstance(a, torch.Tensor))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        args_on_cpu, kwargs = tree_map_only(torch.Tensor, lambda t: t.cpu(), (args, kwargs))
        value = op(*args_on_cpu, **kwargs)
        if op._schema.is_mutable:
            return args[0].copy_(value)
        return tree_map_only(torch.Tensor, lambda t: t.to(device), value)


def likelihoods(device: torch.device, quick: bool) -> Iterator[Line]:
    for name, (precision, (dtype, value, slope)) in product(exact.COUNTS, DTYPES.items()):
        exact._reference.cache_clear()
        with device:
            errors = exact.reference_errors(name, dtype)
        for key, error in errors.items():
            aim = value if key == "value" else slope
            if key != "theta above 0.02":
                yield Line(f"{name}, {precision}: error of {key}", error, f"<= {aim:g}", error <= aim)
    exact._reference.cache_clear()


def small_cells(n: int = 200, g: int = 60) -> Cells:
    """Cells of two batches, half of them labelled, without neighbours."""
    r = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.rand(n, g, generator=r) * 8 * (1 + torch.arange(n) % 3).unsqueeze(-1), generator=r)
    codes = {"batch": torch.arange(n) % 2, "label": torch.where(torch.arange(n) % 4 < 2, torch.arange(n) % 3, -1)}
    levels = {"label": ("a", "b", "c")}
    return Cells(x, codes | {"drug": torch.arange(n) % 4}, proteins=x[:, :3], levels=levels)


def pages(check: Callable[[str, Any, Any], Iterator[Line]]) -> Iterator[Line]:
    """The lines of every model under every guide; where one fails, that is its line, and the others are checked."""
    for model, guide in product(ps.list_models(), ps.list_guides()):
        name = f"{model}, {guide}"
        try:
            yield from check(name, ps.create(model), ps.create(guide))
        except Exception as error:
            traceback.print_exc()
            yield Line(f"{name}: {type(error).__name__}: {error}", np.nan, "", False)


def graph_of(cells: Cells, guide: Any) -> Cells:
    """With neighbours in a plane for a guide that reads them."""
    if not guide.encoder.hops:
        return cells
    return replace(cells, graph=nearest(np.random.default_rng(0).random((len(cells), 2)), neighbours=4))


def on_both(device: torch.device, quick: bool) -> Iterator[Line]:
    """Loss and gradients of one step on the CPU and on the device, parameters and random numbers being the same."""

    def check(name: str, model: Any, guide: Any) -> Iterator[Line]:
        cells = graph_of(small_cells(), guide)
        with seeded(0):
            model = model.sized(cells.dims)
            pair = torch.nn.ModuleList([model, guide.sized(model, cells)]).eval()
        results = []
        for place in (torch.device("cpu"), device):
            moved = copy.deepcopy(pair).to(place)
            with seeded(1), DrawnOnCPU():
                loss = negative_elbo(moved[0], moved[1], cells.to(place))
                loss.backward()
            results.append((loss.item(), [p.grad.cpu() for p in moved.parameters() if p.grad is not None]))
        (one, first), (two, second) = results
        norm = torch.stack([g.norm() for g in first]).norm()
        apart = max(float((a - b).norm() / norm) for a, b in zip(first, second, strict=True))
        difference = abs(one - two) / abs(one)
        yield Line(f"{name}: relative difference of the loss", difference, f"<= {LOSS:g}", difference <= LOSS)
        yield Line(f"{name}: of its gradients", apart, f"<= {GRADIENT:g}", apart <= GRADIENT)

    yield from pages(check)


def fits(device: torch.device, quick: bool) -> Iterator[Line]:
    options = {"epochs": 2 if quick else 10, "batch_size": 64, "progress": False, "device": device}

    def check(name: str, model: Any, guide: Any) -> Iterator[Line]:
        cells = graph_of(small_cells(), guide)
        fit = ps.fit(model, guide, cells, **options)
        values = [fit.history["loss"], *(fit.latent(cells, site=site) for site in fit.guide.sites)]
        finite = all(bool(np.isfinite(some).all()) for some in values)
        yield Line(f"{name}: loss after {options['epochs']} epochs", fit.history["loss"].iloc[-1], "finite", finite)

    yield from pages(check)
    eager = ps.fit(SCVI(), MeanField(), small_cells(), **options)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        compiled = ps.fit(SCVI(), MeanField(), small_cells(), compile=True, **options)
    for warning in warned:
        print(f"compile=True: {warning.message}")
    apart = float((compiled.history["loss"] / eager.history["loss"] - 1).abs().max())
    used = not any("without compiling" in str(warning.message) for warning in warned)
    yield Line("compiled fit: relative difference of the loss", apart, "<= 0.001, compiled", used and apart <= 1e-3)


def rate(run: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Cells a second of repeated calls, after one that is not counted."""
    run()
    synchronise(device)
    began, cells = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        cells += run()
        synchronise(device)
    return cells / (time.perf_counter() - began)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training(device: torch.device, quick: bool, sizes: Sequence[int] = (2000, 6000)) -> Iterator[Line]:
    seconds = 0.5 if quick else 4.0
    for genes in (200,) if quick else sizes:
        adata = drawn(2_000 if quick else 20_000, genes)
        cells = ps.Fields(batch="batch").read(adata)
        for size, (name, likelihood) in product(PEER, {"nb": NB(), "zinb": ZINB()}.items()):
            peer = scvi_rate(adata, name, size, device)
            if peer is not None:
                yield Line(f"scvi-tools, {name}, {genes:,} genes, {size}: cells/s", peer)
            for compiled in (False, True):
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                ours = our_rate(cells, likelihood, size, device, compiled, seconds)
                what = f"{'compiled' if compiled else 'eager'}, {name}, {genes:,} genes, {size}"
                yield Line(f"{what}: cells/s", ours)
                if device.type == "cuda":
                    yield Line(f"{what}: peak memory, GB", torch.cuda.max_memory_allocated(device) / 1e9)
                if peer is not None:
                    aim = PEER[size] if compiled else 1.0
                    yield Line(f"{what}: times scvi-tools", ours / peer, f">= {aim:g}", ours / peer >= aim)


def our_rate(cells: Cells, likelihood: Any, size: int, device: torch.device, compiled: bool, seconds: float) -> float:
    """The networks of scVI: one hidden layer of 128 on both sides, ten latents, batch norm."""
    model = SCVI(likelihood=likelihood, decoder=MLP(norm=BatchNorm()))
    ours = Ours(cells, model, MeanField(encoder=ReadCell(norm=BatchNorm())), size, compile=compiled, device=device)

    def epoch() -> int:
        ours()
        return len(cells)

    return rate(epoch, device, seconds)


def scvi_rate(adata: Any, likelihood: str, size: int, device: torch.device) -> float | None:
    if find_spec("scvi") is None:
        return None
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    return adata.n_obs / Peer(adata, likelihood, size, accelerator, clock=time.perf_counter)()


def evidence(device: torch.device, quick: bool) -> Iterator[Line]:
    cells = ps.Fields(batch="batch").read(drawn(500 if quick else 4_000, 200 if quick else 2000))
    train, held_out = cells.split(0.25, seed=0)
    fit = ps.fit(SCVI(likelihood=NB(), size=LatentSize()), MeanField(), train, epochs=5, progress=False, device=device)
    evidences(Reader(fit, held_out.subset(torch.arange(10)), dtype=torch.float32), progress=False)
    synchronise(device)
    began = time.perf_counter()
    table = evidences(Reader(fit, held_out, dtype=torch.float32), progress=False).table
    seconds = time.perf_counter() - began
    aim = ("<= 1", seconds <= 1.0) if device.type == "cuda" and not quick else ("", None)
    yield Line(f"evidence of {len(held_out):,} cells: seconds", seconds, *aim)
    yield Line("largest standard error, nats", float(table["monte_carlo_se"].max()))


SECTIONS = {"likelihoods": likelihoods, "pages": on_both, "fits": fits, "training": training, "evidence": evidence}


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--device", default="cuda")
    ask.add_argument("--quick", action="store_true", help="small sizes: shows that every section runs")
    ask.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    ask.add_argument("--genes", type=int, nargs="+", default=[2000, 6000], help="of the training section")
    ask.add_argument("--seconds", type=float, default=480, help="stop after so many seconds; later lines are missing")
    ask.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    asked = ask.parse_args()
    device = torch.device(asked.device)
    warnings.filterwarnings("ignore", category=UserWarning)
    sections = SECTIONS | {"training": partial(training, sizes=asked.genes)}
    began, rows = time.monotonic(), []
    for section in asked.only:
        try:
            for line in sections[section](device, asked.quick):
                rows.append({"section": section, **line._asdict()})
                verdict = {True: "holds", False: "DOES NOT HOLD", None: ""}[line.holds]
                print(f"{section}: {line.what} {line.value:.4g} {line.aim} {verdict}", flush=True)
                if time.monotonic() - began > asked.seconds:
                    break
        except Exception as error:  # the other sections are measured all the same: a card is rarely at hand
            rows.append({"section": section, **Line(f"{type(error).__name__}: {error}", np.nan, "", False)._asdict()})
            print(f"{section}: stopped by {type(error).__name__}: {error}", flush=True)
            traceback.print_exc()
        if time.monotonic() - began > asked.seconds:
            print(f"out of time in {section}: what follows is not measured", flush=True)
            break
    table = pd.DataFrame(rows).set_index("what")
    table["holds"] = table["holds"].map({True: "yes", False: "no"}).fillna("")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if asked.out is not None:
        write(asked.out, "gpu", table, {"device": name, "quick": asked.quick, "seconds": time.monotonic() - began})
    failed = table[table["holds"] == "no"]
    print(measured_with())
    print(markdown(failed) if len(failed) else f"everything holds on {name}")
    return int(len(failed) > 0)


if __name__ == "__main__":
    sys.exit(main())
