"""Pictures of a calibration: how far ranks are from uniform, and a statistic of cells beside the same of replicates.

calibrate(fit).plot().savefig("calibration.png")
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pyroscvi.report.labels import label
from pyroscvi.report.plots import FAINT, INK, panels, quiet

if TYPE_CHECKING:
    from pyroscvi.calibration.simulation_based import Calibration

STYLES: dict[str, dict[str, Any]] = {
    "guide": {"color": "#e76300", "linewidth": 1.2},
    "corrected": {"color": "#3f90da", "linewidth": 1.2},
}
NAMES = {"guide": "the guide", "corrected": "importance-corrected"}
COVERAGE = 0.99


def ranks(calibration: "Calibration") -> Figure:
    """Share of ranks below each fraction, less that fraction, a panel a quantity.

    All of a curve lies in the grey band in 99 of 100 calibrations, if draws are draws of the posterior. Titles of
    quantities that fail, all of them considered, are bold.
    """
    quantities = list(calibration.guide.values)
    figure, places = panels(len(quantities), 4, (1.95, 1.55), (0.5, 0.7), sharex=True)
    draws, cells = calibration.guide.draws, len(calibration.guide.values)
    at = np.arange(1, draws + 1) / (draws + 1)
    least, greatest = (edge / cells - at for edge in calibration.guide.band(COVERAGE))
    for panel, quantity in zip(places, quantities, strict=True):
        panel.fill_between(at, least, greatest, color="#e6e6e6", linewidth=0, step="mid")
        panel.axhline(0, color=FAINT, linewidth=0.6)
        for name, one in calibration.ranks.items():
            panel.step(at, one.below(quantity) / cells - at, where="mid", **STYLES[name])
        failed = any(quantity in one.failures for one in calibration.ranks.values())
        panel.set_title(
            label(quantity, 24, 1), fontsize=7.5, color=INK, loc="left", fontweight="bold" if failed else "normal"
        )
        quiet(panel, 6)
        panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        panel.margins(y=0.12)
    figure.supxlabel("rank of the truth among draws, as a fraction", fontsize=8, color=INK)
    figure.supylabel("ECDF less uniform", fontsize=8, color=INK)
    handles: list[Any] = [Line2D([], [], label=NAMES[name], **STYLES[name]) for name in calibration.ranks]
    handles.append(Patch(color="#e6e6e6", label=f"{COVERAGE:.0%} of calibrated curves"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=8, handlelength=1.4)
    return figure
