"""MCDRec's estimator: a small U-Net that looks at a vector and its conditions as channels of a square picture."""

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, interpolate, silu

from foilrec.diffusion.chains import Denoise
from foilrec.diffusion.steps import step_embedding
from foilrec.errors import BadOption

GROUPS = 8


class UNet(nn.Module):
    """DDPM's U-Net (Ho et al. 2020) as MCDRec has it: x_t and M conditions, each [N, D], as sqrt(D) x sqrt(D) pictures.

    Two residual blocks a level, halved down to one pixel and doubled up again with the pictures of the way down beside;
    group norm (8 groups), swish, the step added in each block; attention over the one pixel in the middle, which is a
    mere linear map there. Of the 1 + M channels that come out only the first is read. With D = 64 and two conditions
    it has 137,667 parameters. The order of a vector's numbers matters to it, as the order of pixels does.

    dim: D, a square of a power of two, 16 at least. steps: T. conditions: M. width: channels of the first level, twice
    as many below. dropout: inside the blocks, only where a generator is handed in.
    """

    def __init__(self, dim: int, steps: int, conditions: int, *, width: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.side = isqrt(dim)
        depth = self.side.bit_length()
        if self.side**2 != dim or self.side != 2 ** (depth - 1) or self.side < 4 or width % GROUPS:
            raise BadOption(f"UNet: dim = {dim} must be 16, 64, 256 ..., and width = {width} a multiple of {GROUPS}.")
        self.register_buffer("steps", step_embedding(torch.arange(steps), width), persistent=False)
        self.steps: Tensor
        channels, wide = 1 + conditions, [width, *[2 * width] * (depth - 1)]
        self.of_step = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept = [width]
        for level, out in enumerate(wide):
            for _ in range(2):
                self.down.append(_Block(kept[-1], out, 4 * width, dropout))
                kept.append(out)
            if level < depth - 1:
                self.down.append(nn.Conv2d(out, out, 3, stride=2, padding=1))
                kept.append(out)
        now = kept[-1]
        self.middle = nn.ModuleList([_Block(now, now, 4 * width, dropout) for _ in range(2)])
        self.attention = _Pixel(now)
        for level, out in reversed(list(enumerate(wide))):
            for _ in range(3):
                self.up.append(_Block(now + kept.pop(), out, 4 * width, dropout))
                now = out
            if level:
                self.up.append(nn.Conv2d(out, out, 3, padding=1))
        self.norm, self.last = nn.GroupNorm(GROUPS, now), nn.Conv2d(now, channels, 3, padding=1)

    def forward(self, picture: Tensor, t: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """picture [N, 1 + M, s, s], t [N] or [] -> [N, 1 + M, s, s]; noise: where dropout comes from, if any."""
        step = silu(self.of_step(embedding(t.long(), self.steps))).expand(len(picture), -1)
        x = self.first(picture)
        kept = [x]
        for layer in self.down:
            x = layer(x, step, noise) if isinstance(layer, _Block) else layer(x)
            kept.append(x)
        x = self.middle[1](self.attention(self.middle[0](x, step, noise)), step, noise)
        for layer in self.up:
            if isinstance(layer, _Block):
                x = layer(torch.cat([x, kept.pop()], 1), step, noise)
            else:
                x = layer(interpolate(x, scale_factor=2.0, mode="nearest"))
        made: Tensor = self.last(silu(self.norm(x)))
        return made

    def prepare(self, conditions: Sequence[Tensor], noise: torch.Generator | None = None, block: int = 2048) -> Denoise:
        """f(x, t) with conditions M times [N, D], with gradient; without one, `block` rows at a time."""
        fixed = torch.stack(list(conditions), 1).view(-1, len(conditions), self.side, self.side)

        def whole(x: Tensor, t: Tensor, shown: Tensor) -> Tensor:
            picture = torch.cat([x.view(-1, 1, self.side, self.side), shown], 1)
            made: Tensor = self(picture, t, noise)[:, 0].flatten(1)
            return made

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return whole(x, t, fixed)
            steps = t.expand(len(x)).split(block)
            return torch.cat([whole(*rows) for rows in zip(x.split(block), steps, fixed.split(block), strict=True)])

        return denoise


class _Block(nn.Module):
    """Two convolutions with the step between them, beside a straight way."""

    def __init__(self, inside: int, out: int, step: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, inside), nn.GroupNorm(GROUPS, out)])
        self.convolutions = nn.ModuleList([nn.Conv2d(inside, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)])
        self.step, self.dropout = nn.Linear(step, out), dropout
        self.straight = nn.Identity() if inside == out else nn.Conv2d(inside, out, 1)

    def forward(self, x: Tensor, step: Tensor, noise: torch.Generator | None) -> Tensor:
        """x [N, inside, s, s], step [N, 4 width] after its swish -> [N, out, s, s]."""
        made = self.convolutions[0](silu(self.norms[0](x))) + self.step(step)[:, :, None, None]
        made = silu(self.norms[1](made))
        summed: Tensor = self.straight(x) + self.convolutions[1](dropped(made, self.dropout, noise))
        return summed


class _Pixel(nn.Module):
    """Self-attention over a picture of one pixel: its only key has weight 1, so queries and keys change nothing.

    They are kept, since the published count of parameters has them; their gradient is zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        names = ("query", "key", "value", "out")
        self.maps = nn.ModuleDict({name: nn.Conv2d(channels, channels, 1) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        """x [N, channels, 1, 1] -> the same shape."""
        made = self.norm(x)
        query, key, value = (self.maps[name](made) for name in ("query", "key", "value"))
        weight = ((query * key).sum(1, keepdim=True) * len(self.norm.weight) ** -0.5)[:, None].softmax(1)[:, 0]
        attended: Tensor = x + self.maps["out"](value * weight)
        return attended


def dropped(x: Tensor, share: float, noise: torch.Generator | None) -> Tensor:
    """Dropout whose draws come from a named stream: the rest grows by 1 / (1 - share). None without one."""
    if noise is None or not share:
        return x
    return x * (torch.rand(x.shape, generator=noise) >= share).to(x) / (1 - share)
