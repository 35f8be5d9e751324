"""The forward noise and its algebra: x_t, x_0, epsilon and v from each other, every row at a step of its own."""

from typing import Literal, get_args

from torch import Tensor, nn

from foilrec.diffusion.schedules import Schedule
from foilrec.errors import BadOption, did_you_mean

Prediction = Literal["sample", "epsilon", "v"]


class Gaussian(nn.Module):
    """q(x_t | x_0) = N(signal_t x_0, spread_t^2), with what a network is asked for.

    prediction: "sample" x_0, "epsilon" the noise (Ho et al. 2020), or "v" = signal_t epsilon - spread_t x_0 (Salimans
    and Ho 2022). Everywhere below, x is [B, ..., D] and t, in 0 .. T - 1, is [B], or [] or an int for all rows.
    """

    def __init__(self, schedule: Schedule, prediction: Prediction = "sample") -> None:
        super().__init__()
        known = get_args(Prediction)
        if prediction not in known:
            raise BadOption(
                f"Diffusion: no prediction {prediction!r}{did_you_mean(prediction, known) or '.'} There are "
                f"{', '.join(known)}."
            )
        self.schedule, self.prediction = schedule, prediction

    @property
    def steps(self) -> int:
        """T."""
        return len(self.schedule)

    def noise(self, x0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """x_t = signal_t x_0 + spread_t eps: eps like x0."""
        signal, spread = self._ends(t, x0)
        return signal * x0 + spread * eps

    def target(self, x0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """What the network's output on noise(x0, t, eps) is compared with."""
        if self.prediction == "sample":
            return x0
        if self.prediction == "epsilon":
            return eps
        signal, spread = self._ends(t, x0)
        return signal * eps - spread * x0

    def to_x0(self, x_t: Tensor, t: Tensor | int, output: Tensor) -> Tensor:
        """The clean vector that an output of the network on x_t stands for."""
        if self.prediction == "sample":
            return output
        signal, spread = self._ends(t, x_t)
        return (x_t - spread * output) / signal if self.prediction == "epsilon" else signal * x_t - spread * output

    def to_epsilon(self, x_t: Tensor, t: Tensor | int, output: Tensor) -> Tensor:
        """The noise that an output of the network on x_t stands for."""
        if self.prediction == "epsilon":
            return output
        signal, spread = self._ends(t, x_t)
        return (x_t - signal * output) / spread if self.prediction == "sample" else spread * x_t + signal * output

    def posterior(self, x_t: Tensor, t: Tensor | int, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Mean c1_t x_0 + c2_t x_t and standard deviation sigma_t of q(x_{t-1} | x_t, x_0); at t = 0 they are x0, 0.

        The standard deviation has as many dimensions as x_t, all of size 1 but the rows'.
        """
        c1, c2, sigma = (rows_at(v, t, x_t) for v in (self.schedule.c1, self.schedule.c2, self.schedule.sigma))
        return c1 * x0 + c2 * x_t, sigma

    def _ends(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        return rows_at(self.schedule.signal, t, like), rows_at(self.schedule.spread, t, like)


def rows_at(values: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
    """values [T] at t, shaped to multiply `like` [B, ..., D] row by row."""
    picked = values[t if isinstance(t, int) else t.long()].to(like.dtype)
    return picked.reshape(*picked.shape, *[1] * (like.dim() - picked.dim()))
