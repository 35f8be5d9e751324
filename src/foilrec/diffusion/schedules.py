"""Noise schedules by name: how much of a vector is left after each step.

Steps are numbered 0 .. T - 1; abar_t is the share of the clean vector's variance in x_t, and abar_-1 = 1.
"""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from foilrec.errors import BadOption, did_you_mean


class Schedule(nn.Module):
    """What a chain needs to know of its T betas, as buffers [T]; no part of a checkpoint.

    alphas = 1 - betas, abar their running product, abar_prev the same one step earlier, signal = sqrt(abar), spread =
    sqrt(1 - abar), snr = abar / (1 - abar). c1, c2 and sigma give q(x_{t-1} | x_t, x_0) = N(c1 x_0 + c2 x_t, sigma^2)
    (Ho et al. 2020, eq. 6-7); at step 0 they are 1, 0 and 0 exactly. Worked out in float64, kept in float32.

    betas: [T], each in (0, 1); BadOption otherwise.
    """

    betas: Tensor
    alphas: Tensor
    abar: Tensor
    abar_prev: Tensor
    signal: Tensor
    spread: Tensor
    snr: Tensor
    c1: Tensor
    c2: Tensor
    sigma: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        for name, values in _figures(_checked(betas)).items():
            self.register_buffer(name, values.float(), persistent=False)

    def __len__(self) -> int:
        return len(self.betas)


def schedule(name: str, steps: int, **options: float | None) -> Schedule:
    """The schedule of that name (see SCHEDULES) over `steps` steps.

    BadOption for a name or an option that there is not, for steps below 1 and for betas outside (0, 1).
    """
    if name not in SCHEDULES:
        raise BadOption(
            f"No noise schedule {name!r}{did_you_mean(name, SCHEDULES) or '.'} There are {', '.join(SCHEDULES)}."
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadOption(f"Schedule {name!r}: steps = {steps!r} must be a whole number from 1.")
    known = dict(list(inspect.signature(SCHEDULES[name]).parameters.items())[1:])
    for option, value in options.items():
        if option not in known:
            raise BadOption(
                f"Schedule {name!r} has no option {option!r}{did_you_mean(option, known) or '.'} It takes "
                f"{', '.join(known)}."
            )
        if not isinstance(value, known[option].annotation | int):
            raise BadOption(f"Schedule {name!r}: {option} = {value!r} must be a number.")
    return Schedule(SCHEDULES[name](steps, **options))


def _checked(betas: Tensor) -> Tensor:
    betas = betas.double()
    wrong = ~((betas > 0) & (betas < 1))
    if bool(wrong.any()):
        step = int(wrong.nonzero()[0])
        raise BadOption(
            f"Noise schedule: beta of step {step} is {float(betas[step]):g} and must lie in (0, 1): change the "
            "schedule's ends or its scale, or the number of steps."
        )
    return betas


def _figures(betas: Tensor) -> dict[str, Tensor]:
    """All buffers of a Schedule in float64; 1 - abar by way of logarithms, exact also where abar is close to 1."""
    alphas = 1 - betas
    abar = alphas.cumprod(0)
    noise = -torch.expm1(torch.log1p(-betas).cumsum(0))
    abar_prev, noise_prev = torch.ones_like(abar), torch.zeros_like(noise)
    abar_prev[1:], noise_prev[1:] = abar[:-1], noise[:-1]
    c1, c2 = betas * abar_prev.sqrt() / noise, noise_prev * alphas.sqrt() / noise
    return {
        "betas": betas,
        "alphas": alphas,
        "abar": abar,
        "abar_prev": abar_prev,
        "signal": abar.sqrt(),
        "spread": noise.sqrt(),
        "snr": abar / noise,
        "c1": c1,
        "c2": c2,
        "sigma": (betas * noise_prev / noise).sqrt(),
    }


def linear(steps: int, first: float = 1e-4, last: float = 2e-2) -> Tensor:
    """Betas evenly from first to last (Ho et al. 2020), the same ends whatever T: CCDRec's and MCDRec's.

    A short chain stays far from noise: abar_T = .951 (T = 5), .904 (10), .817 (20), .667 (40), .364 (100).
    """
    return torch.linspace(first, last, steps, dtype=torch.float64)


def linear_scaled(steps: int, first: float = 1e-4, last: float = 2e-2, most: float = 0.999) -> Tensor:
    """`linear` with its ends times 1000 / T, so that a chain of any length ends in noise; betas at most `most`."""
    return linear(steps, first * 1000 / steps, last * 1000 / steps).clamp(max=most)


def quadratic(steps: int, first: float = 1e-4, last: float = 2e-2) -> Tensor:
    """Roots of the betas evenly from sqrt(first) to sqrt(last)."""
    return linear(steps, math.sqrt(first), math.sqrt(last)).square()


def sigmoid(steps: int, first: float = 1e-4, last: float = 2e-2, reach: float = 6.0) -> Tensor:
    """Betas from first to last along a sigmoid over [-reach, reach]."""
    return linear(steps, -reach, reach).sigmoid() * (last - first) + first


def cosine(steps: int, offset: float = 0.008, most: float = 0.999) -> Tensor:
    """abar(x) = cos^2((x + offset) / (1 + offset) pi / 2) (Nichol and Dhariwal 2021, eq. 17); betas at most `most`."""
    x = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset)
    return _from_abar((x * math.pi / 2).cos().square(), most)


def sqrt(steps: int, offset: float = 1e-4, most: float = 0.999) -> Tensor:
    """abar(x) = 1 - sqrt(x + offset) (Li et al. 2022, Diffusion-LM); betas at most `most`."""
    x = torch.arange(steps + 1, dtype=torch.float64) / steps
    return _from_abar(1 - (x + offset).sqrt(), most)


def exp(steps: int, first: float = 0.1, last: float = 10.0) -> Tensor:
    """abar(x) = exp(-first x - (last - first) x^2 / 2), the variance-preserving process (Song et al. 2021, eq. 33).

    DreamRec's code has this law on a grid that ends one step later.
    """
    x = torch.arange(steps + 1, dtype=torch.float64) / steps
    return -torch.expm1(-(first * x + (last - first) * x.square() / 2).diff())


def diffrec(
    steps: int,
    noise_scale: float = 0.1,
    noise_min: float = 1e-4,
    noise_max: float = 2e-2,
    first: float | None = 1e-5,
    most: float = 0.999,
) -> Tensor:
    """1 - abar evenly from noise_scale noise_min to noise_scale noise_max (Wang et al. 2023, DiffRec, eq. 4).

    Little noise by design: abar_T = .998 as it stands. first: the beta of step 0 that DiffRec's code puts in place
    of its own, which moves all later abar a little; None keeps the formula.
    """
    noise = linear(steps, noise_scale * noise_min, noise_scale * noise_max)
    betas = _from_abar(torch.cat([noise.new_ones(1), 1 - noise]), most)
    return betas if first is None else torch.cat([betas.new_tensor([first]), betas[1:]])


def _from_abar(abar: Tensor, most: float) -> Tensor:
    """Betas [T] of the shares [T + 1] left before the first and after each step."""
    return (1 - abar[1:] / abar[:-1]).clamp(max=most)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": linear,
    "linear-scaled": linear_scaled,
    "quadratic": quadratic,
    "cosine": cosine,
    "sqrt": sqrt,
    "exp": exp,
    "sigmoid": sigmoid,
    "diffrec": diffrec,
}
