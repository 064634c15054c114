"""The average of a run's states.

Steps of Adam scatter around an optimum, and the mean of many states lies closer to it than the last one does.

References
    Polyak, B. T. & Juditsky, A. B. (1992) Acceleration of stochastic approximation by averaging. SIAM Journal on
    Control and Optimization. doi:10.1137/0330046
    Izmailov, P. et al. (2018) Averaging weights leads to wider optima and better generalization. UAI. arXiv:1803.05407
"""

from collections.abc import Mapping

from torch import Tensor


class Average:
    """The running mean of states. A tensor of integers is that of the last state.

    count  states so far
    state  their mean; empty before the first

    >>> import torch
    >>> average = Average()
    >>> for value in (1.0, 2.0, 6.0):
    ...     average.add({"weight": torch.tensor(value)})
    >>> average.state["weight"].item()
    3.0
    """

    def __init__(self) -> None:
        self.count = 0
        self.state: dict[str, Tensor] = {}

    def add(self, state: Mapping[str, Tensor]) -> None:
        self.count += 1
        for name, t in state.items():
            if self.count == 1 or not t.is_floating_point():
                self.state[name] = t.clone()
            else:
                self.state[name].lerp_(t, 1 / self.count)
