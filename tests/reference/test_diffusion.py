"""Diffusion against its formulas written out with loops, against exact moments, and against another library."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from foilrec.diffusion.attention import AttendedMean
from foilrec.diffusion.gaussian import Gaussian
from foilrec.diffusion.mlp import MLP
from foilrec.diffusion.process import Diffusion
from foilrec.diffusion.schedules import SCHEDULES, Schedule, schedule
from foilrec.diffusion.steps import step_embedding
from foilrec.diffusion.tokenmixer import TokenMixer
from foilrec.errors import BadOption

PREDICTIONS = ["sample", "epsilon", "v"]
N, D, T = 11, 8, 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).double()


def oracle(x0: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The network that knows the clean vectors."""
    return lambda x, t: x0


# schedules


def betas_by_hand(name: str, steps: int) -> list[float]:
    """Each schedule's betas, one by one."""
    ends, most = (1e-4, 2e-2), 0.999

    def along(t: int, first: float, last: float) -> float:
        return first + (last - first) * t / (steps - 1) if steps > 1 else first

    def left(x: float) -> float:
        if name == "cosine":
            return math.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2
        if name == "sqrt":
            return 1 - math.sqrt(x + 1e-4)
        return math.exp(-0.1 * x - 9.9 * x * x / 2)

    betas = []
    for t in range(steps):
        if name == "linear":
            betas.append(along(t, *ends))
        elif name == "linear-scaled":
            betas.append(min(along(t, 0.1 / steps, 20 / steps), most))
        elif name == "quadratic":
            betas.append(along(t, 0.01, math.sqrt(0.02)) ** 2)
        elif name == "sigmoid":
            betas.append(ends[0] + (ends[1] - ends[0]) / (1 + math.exp(-along(t, -6, 6))))
        elif name == "diffrec":
            before, after = 1 - along(t - 1, 1e-5, 2e-3), 1 - along(t, 1e-5, 2e-3)
            betas.append(1 - after / before if t else 1e-5)
        else:
            betas.append(min(1 - left((t + 1) / steps) / left(t / steps), most))
    return betas


@pytest.mark.parametrize("steps", [1, 5, 20, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_and_their_figures(name: str, steps: int) -> None:
    made, betas = schedule(name, steps), betas_by_hand(name, steps)
    assert len(made) == steps
    assert made.betas.tolist() == pytest.approx(betas, rel=1e-5)
    before = 1.0
    for t, beta in enumerate(betas):
        now = before * (1 - beta)
        variance = beta * (1 - before) / (1 - now)
        expected = {
            "alphas": 1 - beta,
            "abar": now,
            "abar_prev": before,
            "signal": math.sqrt(now),
            "spread": math.sqrt(1 - now),
            "snr": now / (1 - now),
            "c1": beta * math.sqrt(before) / (1 - now),
            "c2": (1 - before) * math.sqrt(1 - beta) / (1 - now),
            "sigma": math.sqrt(variance),
        }
        for figure, value in expected.items():
            assert float(getattr(made, figure)[t]) == pytest.approx(value, rel=1e-4, abs=1e-9), (figure, t)
        before = now


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_first_step_gives_the_clean_vector_exactly(name: str) -> None:
    made = schedule(name, 7)
    assert (float(made.c1[0]), float(made.c2[0]), float(made.sigma[0])) == (1, 0, 0)
    assert float(made.abar_prev[0]) == 1
    assert (made.abar.diff() < 0).all()


@pytest.mark.parametrize(("steps", "left"), [(5, 0.951), (10, 0.904), (20, 0.817), (40, 0.667), (100, 0.364)])
def test_a_short_linear_chain_stays_far_from_noise(steps: int, left: float) -> None:
    assert float(schedule("linear", steps).abar[-1]) == pytest.approx(left, abs=5e-4)


@pytest.mark.parametrize("name", ["cosine", "linear-scaled"])
def test_these_end_in_noise_whatever_the_length(name: str) -> None:
    assert max(float(schedule(name, steps).abar[-1]) for steps in (5, 20, 100, 1000)) < 1e-3


def test_options_of_diffrec() -> None:
    plain = schedule("diffrec", 5, first=None, noise_scale=0.5, noise_max=0.4)
    assert (1 - plain.abar).tolist() == pytest.approx([5e-5 + (0.2 - 5e-5) * t / 4 for t in range(5)], rel=2e-3)
    assert float(schedule("diffrec", 5, first=1e-3).betas[0]) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("linaer", 5), {}, "did you mean 'linear'"),
        (("linear", 0), {}, "steps = 0"),
        (("linear", 2.5), {}, "whole number"),
        (("linear", 5), {"fist": 0.1}, "did you mean 'first'"),
        (("linear", 5), {"first": None}, "first = None must be a number"),
        (("linear", 5), {"last": 1.0}, "beta of step 4 is 1 "),
        (("linear", 5), {"first": -0.1}, "beta of step 0"),
        (("linear", 5), {"last": math.nan}, "is nan"),
        (("diffrec", 5), {"noise_scale": 0.0}, "beta of step 1 is 0"),
    ],
)
def test_bad_schedules_are_refused(arguments: tuple, options: dict, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        schedule(*arguments, **options)


@pytest.mark.parametrize("options", [{"prediction": "sampel"}, {"scale": 0.0}, {"scale": "units"}, {"clip": -1.0}])
def test_bad_processes_are_refused(options: dict) -> None:
    with pytest.raises(BadOption, match=str(next(iter(options.values())))):
        Diffusion(schedule("linear", 3), **options)


def test_a_schedule_is_no_part_of_a_checkpoint() -> None:
    process = Diffusion(schedule("cosine", 5))
    assert not process.state_dict()
    assert len(list(process.buffers())) == 10  # and so it moves with .to(device)
    assert all(name.startswith(("query", "key", "value")) for name in TokenMixer(D, T).state_dict())


# algebra


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("shape", [(N, D), (N, 3, D)])
def test_noise_target_and_ways_back_row_by_row(prediction: str, shape: tuple[int, ...]) -> None:
    gaussian = Gaussian(schedule("cosine", T), prediction)
    x0, eps = doubles(*shape), doubles(*shape, seed=1)
    t = torch.arange(N, dtype=torch.int32) % T
    x_t, target = gaussian.noise(x0, t, eps), gaussian.target(x0, t, eps)
    mean, sigma = gaussian.posterior(x_t, t, x0)
    for row in range(N):
        left = math.prod(1 - float(b) for b in gaussian.schedule.betas[: int(t[row]) + 1])
        a, s = math.sqrt(left), math.sqrt(1 - left)
        wanted = {"sample": x0[row], "epsilon": eps[row], "v": a * eps[row] - s * x0[row]}[prediction]
        assert torch.allclose(x_t[row], a * x0[row] + s * eps[row], atol=1e-5)
        assert torch.allclose(target[row], wanted, atol=1e-5)
        assert torch.equal(x_t[row], gaussian.noise(x0[row], int(t[row]), eps[row]))
        alone, width = gaussian.posterior(x_t[row], int(t[row]), x0[row])
        assert torch.equal(mean[row], alone)
        assert torch.equal(sigma[row].flatten(), width.flatten())
    # what a perfect network says leads back, but for rounding where nearly nothing is left of x0
    slack = 1e-5 / gaussian.schedule.signal[t.long()].reshape(-1, *[1] * (len(shape) - 1))
    assert ((gaussian.to_x0(x_t, t, target) - x0).abs() < slack).all()
    assert torch.allclose(gaussian.to_epsilon(x_t, t, target), eps, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_ways_back_are_of_one_mind_about_any_output(prediction: str) -> None:
    gaussian = Gaussian(schedule("linear", T, last=0.5), prediction)
    x_t, output, t = doubles(N, D), doubles(N, D, seed=1), torch.arange(N)
    x0, eps = gaussian.to_x0(x_t, t, output), gaussian.to_epsilon(x_t, t, output)
    assert torch.allclose(gaussian.noise(x0, t, eps), x_t, atol=1e-5)
    assert torch.allclose(gaussian.target(x0, t, eps), output, atol=1e-4)


# loss


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scale", ["none", "unit", 0.25])
def test_loss_and_estimate_row_by_row(prediction: str, scale: str | float) -> None:
    process = Diffusion(schedule("cosine", T, most=0.9), prediction, scale)
    x0, eps, weights = 0.1 * doubles(N, D), doubles(N, D, seed=1), torch.arange(N) / 4.0
    t = torch.arange(N)
    size = {"none": 1.0, "unit": math.sqrt(sum(float(v) ** 2 for v in x0.flatten()) / (N * D))}.get(scale, 0.25)
    assert float(process.scale_of(x0)) == pytest.approx(size)
    loss, estimate = process.loss(lambda x, s: 0.5 * x + s[:, None], x0, t, eps, weights=weights, min_snr=2.0)
    total = 0.0
    for row in range(N):
        left = float(process.schedule.abar[row])
        a, s, snr = math.sqrt(left), math.sqrt(1 - left), left / (1 - left)
        for d in range(D):
            clean, noise = float(x0[row, d]) / size, float(eps[row, d])
            x_t = a * clean + s * noise
            output = 0.5 * x_t + row
            target = {"sample": clean, "epsilon": noise, "v": a * noise - s * clean}[prediction]
            back = {"sample": output, "epsilon": (x_t - s * output) / a, "v": a * x_t - s * output}[prediction]
            per = {"sample": 1, "epsilon": snr, "v": snr + 1}[prediction]
            total += float(weights[row]) * min(snr, 2.0) / per * (output - target) ** 2
            assert float(estimate[row, d]) == pytest.approx(back * size, rel=1e-4, abs=1e-4)
    assert float(loss) == pytest.approx(total / (N * D), rel=1e-4)


@pytest.mark.parametrize("stop", [False, True])
def test_where_the_gradient_of_the_loss_goes(stop: bool) -> None:
    process = Diffusion(schedule("linear", T), scale=2.0)
    x0, eps, t = doubles(N, D).requires_grad_(), doubles(N, D, seed=1), torch.full((N,), 4)
    loss, _ = process.loss(lambda x, s: 3 * x, x0, t, eps, stop_target=stop)
    loss.backward()
    clean, signal = x0.detach() / 2, float(process.schedule.signal[4])
    x_t = process.noise(clean, 4, eps)
    expected = 2 * (3 * x_t - clean) * (3 * signal - (not stop)) / 2 / (N * D)
    assert torch.allclose(x0.grad, expected, atol=1e-6)


def test_a_given_scale_stands_for_a_batch_s_own() -> None:
    process = Diffusion(schedule("linear", T), scale="unit")
    table, eps, t = doubles(40, D), doubles(N, D, seed=1), torch.arange(N)
    scale = process.scale_of(table)
    loss, estimate = process.loss(lambda x, s: x, table[:N], t, eps, scale=scale)
    clean = table[:N] / scale
    x_t = process.noise(clean, t, eps)
    assert torch.allclose(loss, (x_t - clean).square().mean())
    assert torch.allclose(estimate, x_t * scale)
    assert float(process.scale_of(torch.zeros(3))) > 0


# chains


@pytest.mark.parametrize("name", ["linear", "cosine", "exp", "diffrec"])
def test_a_chain_that_knows_the_end_has_the_forward_marginals(name: str) -> None:
    """Mean and variance of x_t are linear in those of x_{t+1}, so they are followed exactly: no sampling error."""
    process = Diffusion(schedule(name, T))
    x0, figures = doubles(1, D), process.schedule
    x = process.noise(x0, T - 1, torch.zeros_like(x0))
    variance = float(figures.spread[-1]) ** 2
    for t, mean, _ in process.reverse(oracle(x0), x, noise=None):
        variance = float(figures.c2[t]) ** 2 * variance + float(figures.sigma[t]) ** 2
        left = float(figures.abar_prev[t])
        assert torch.allclose(mean, math.sqrt(left) * x0, atol=1e-5)
        assert variance == pytest.approx(float(figures.spread[t - 1]) ** 2 if t else 0, abs=1e-5)


def test_the_noise_of_a_chain_has_the_forward_marginals_too() -> None:
    """20,000 chains: a mean within 5 standard errors, a variance within 5 of its own."""
    process, many = Diffusion(schedule("linear", 5, last=0.5)), 20_000
    generator = torch.Generator().manual_seed(0)
    for t, x, _ in process.regenerate(oracle(torch.ones(many, 1)), torch.ones(many, 1), noise=generator):
        left = float(process.schedule.abar_prev[t])
        assert float(x.mean()) == pytest.approx(math.sqrt(left), abs=5 * math.sqrt((1 - left) / many) + 1e-6)
        assert float(x.var()) == pytest.approx(1 - left, rel=5 * math.sqrt(2 / many), abs=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_reverse_step_by_step(prediction: str) -> None:
    process = Diffusion(schedule("linear", T, last=0.4), prediction, clip=1.5)
    drawn = {t: doubles(N, D, seed=t) for t in range(1, T)}
    asked = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t))
        return torch.tanh(x) * (1 + 0.1 * t)

    x = expected = doubles(N, D, seed=99)
    steps = list(process.reverse(network, x, start=9, noise=drawn.__getitem__))
    assert [t for t, _, _ in steps] == asked == list(range(8, -1, -1))
    betas = [float(b) for b in process.schedule.betas]
    for t, found, estimate in steps:
        now, before = (math.prod(1 - b for b in betas[:n]) for n in (t + 1, t))
        output = torch.tanh(expected) * (1 + 0.1 * t)
        a, s = math.sqrt(now), math.sqrt(1 - now)
        clean = {"sample": output, "epsilon": (expected - s * output) / a, "v": a * expected - s * output}[prediction]
        clean = clean.clamp(-1.5, 1.5)
        variance = betas[t] * (1 - before) / (1 - now)
        expected = (
            betas[t] * math.sqrt(before) / (1 - now) * clean
            + (1 - before) * math.sqrt(1 - betas[t]) / (1 - now) * expected
            + (math.sqrt(variance) * drawn[t] if t else 0)
        )
        assert torch.allclose(estimate, clean, atol=1e-4)
        assert torch.allclose(found, expected, atol=1e-4)
        expected = found
    assert torch.equal(steps[-1][1], steps[-1][2]), "the last state is the last estimate"


def test_a_chain_runs_only_as_far_as_it_is_asked_to() -> None:
    calls = []
    process = Diffusion(schedule("linear", T))
    chain = process.reverse(lambda x, t: calls.append(int(t)) or x, normal(N, D), noise=torch.Generator())
    assert [t for t, _, _ in itertools.islice(chain, 3)] == calls == [T - 1, T - 2, T - 3]


def test_regenerate_is_noise_then_reverse_in_the_callers_units() -> None:
    process, x0 = Diffusion(schedule("linear", T), scale="unit"), 7 * doubles(N, D)
    drawn = {t: doubles(N, D, seed=t) for t in range(1, T + 1)}
    found = list(process.regenerate(lambda x, t: x.sin(), x0, start=5, noise=drawn.__getitem__))
    size = x0.square().mean().sqrt()
    start = process.noise(x0 / size, 4, drawn[5])
    expected = list(process.reverse(lambda x, t: x.sin(), start, start=5, noise=drawn.__getitem__))
    for (_, x, estimate), (_, y, other) in zip(found, expected, strict=True):
        assert torch.allclose(x, y * size)
        assert torch.allclose(estimate, other * size)


def test_a_generator_of_the_same_seed_gives_the_same_chain() -> None:
    process, x0 = Diffusion(schedule("linear", T)), normal(N, D)
    first, again, other = (
        [x for _, x, _ in process.regenerate(lambda x, t: x, x0, noise=torch.Generator().manual_seed(seed))]
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[-1], other[-1])


@pytest.mark.parametrize("steps", [1, 3, 5, T])
def test_deterministic_ddim_with_an_oracle_stays_on_the_line_to_the_clean_vector(steps: int) -> None:
    process, x0, eps = Diffusion(schedule("cosine", T)), doubles(N, D), doubles(N, D, seed=1)
    found = list(process.ddim(oracle(x0), process.noise(x0, T - 1, eps), steps))
    times = [t for t, _, _ in found]
    assert len(times) == steps == len(set(times))
    assert times[0] == T - 1
    for (_, x, _), after in itertools.pairwise([*found]):
        assert torch.allclose(x, process.noise(x0, after[0], eps), atol=1e-4)
    assert torch.equal(found[-1][1], x0)


def test_ddim_with_all_steps_and_all_noise_is_the_ancestral_chain() -> None:
    process, x = Diffusion(schedule("linear", T, last=0.5), "v"), doubles(N, D)
    drawn = {t: doubles(N, D, seed=t) for t in range(1, T)}
    for start in (T, 7):
        every = process.ddim(lambda x, t: x.tanh(), x, start, 1.0, start=start, noise=drawn.__getitem__)
        plain = process.reverse(lambda x, t: x.tanh(), x, start=start, noise=drawn.__getitem__)
        for (t, found, _), (s, expected, _) in zip(every, plain, strict=True):
            assert t == s
            assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "chain",
    [
        lambda p, x: p.reverse(oracle(x), x, start=T + 1, noise=None),
        lambda p, x: p.regenerate(oracle(x), x, start=0, noise=None),
        lambda p, x: p.ddim(oracle(x), x, T + 1),
        lambda p, x: p.ddim(oracle(x), x, 5, start=4),
        lambda p, x: p.ddim(oracle(x), x, 3, 0.5),
    ],
)
def test_chains_that_cannot_be_are_refused(chain: Callable) -> None:
    with pytest.raises(BadOption):
        next(chain(Diffusion(schedule("linear", T)), normal(N, D)))


@pytest.mark.parametrize("count", [1, 2, 7, 4096])
def test_antithetic_steps_come_with_their_mirror_images(count: int) -> None:
    process = Diffusion(schedule("linear", T))
    drawn = process.antithetic(count, torch.Generator().manual_seed(3))
    half = count // 2 + 1
    first = torch.randint(T, (half,), generator=torch.Generator().manual_seed(3))
    assert drawn.tolist() == [*first.tolist(), *(T - 1 - s for s in first.tolist())][:count]


def test_steps_are_uniform(chi_square: Callable[[Tensor, Tensor], float]) -> None:
    process, generator = Diffusion(schedule("linear", T)), torch.Generator().manual_seed(0)
    counts = torch.bincount(process.uniform(12_000, generator), minlength=T)
    assert len(counts) == T
    assert chi_square(counts, torch.full((T,), 12_000 / T)) > 1e-4


# networks


def test_step_embedding_number_by_number() -> None:
    t = torch.tensor([[0, 1], [19, 999]])
    found = step_embedding(t, 8)
    assert found.shape == (2, 2, 8)
    for place, j in itertools.product(itertools.product(range(2), repeat=2), range(4)):
        angle = int(t[place]) * 10000 ** (-j / 3)
        assert float(found[place][j]) == pytest.approx(math.sin(angle), abs=1e-6)
        assert float(found[place][4 + j]) == pytest.approx(math.cos(angle), abs=1e-6)
    for dim in (2, 7):
        with pytest.raises(BadOption, match=f"dim = {dim}"):
            step_embedding(t, dim)


def attention_by_rows(mixer: TokenMixer, x: Tensor, t: Tensor, conditions: list[Tensor], present: Tensor) -> Tensor:
    """The estimator as a picture of it would be coded: a row at a time, tokens that are there, every map."""
    norm = nn.LayerNorm(D, elementwise_affine=False, dtype=torch.float64)
    out = []
    for row in range(len(x)):
        here = [c[row] for c, is_there in zip(conditions, present[row], strict=True) if is_there]
        tokens = norm(torch.stack([x[row], *here, step_embedding(t[row], D).double()]))
        q, k, v = tokens @ mixer.query, tokens @ mixer.key, tokens @ mixer.value
        out.append((torch.softmax(q @ k.T / math.sqrt(D), 1) @ v).mean(0))
    return torch.stack(out)


def mixer_and_inputs(conditions: int) -> tuple[TokenMixer, Tensor, Tensor, list[Tensor], Tensor]:
    torch.manual_seed(0)
    mixer = TokenMixer(D, T).double()
    given = [doubles(N, D, seed=5 + m).requires_grad_() for m in range(conditions)]
    present = torch.rand(N, conditions, generator=torch.Generator().manual_seed(1)) < 0.6
    return mixer, doubles(N, D).requires_grad_(), torch.arange(N) % T, given, present


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("conditions", [0, 1, 2, 3])
def test_token_mixer_and_its_gradients_are_those_of_plain_attention(conditions: int, masked: bool) -> None:
    mixer, x, t, given, present = mixer_and_inputs(conditions)
    found = mixer(x, t, given, present if masked else None)
    expected = attention_by_rows(mixer, x, t, given, present if masked else torch.ones_like(present))
    assert torch.allclose(found, expected, atol=1e-6)
    upstream, leaves = doubles(N, D, seed=3), [x, *given, *mixer.parameters()]
    mine = torch.autograd.grad((found * upstream).sum(), leaves)
    theirs = torch.autograd.grad((expected * upstream).sum(), leaves)
    for gradient, other in zip(mine, theirs, strict=True):
        assert float(other.abs().max()) > 1e-3
        assert torch.allclose(gradient, other, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("conditions", [0, 2])
@pytest.mark.parametrize("step", ["rows", "one"])
def test_a_prepared_token_mixer_is_the_same_function(conditions: int, masked: bool, step: str) -> None:
    mixer, x, t, given, present = mixer_and_inputs(conditions)
    t = t if step == "rows" else torch.tensor(7)
    mask = present if masked else None
    prepared = mixer.prepare(given, mask)(x, t)
    assert not prepared.requires_grad
    assert torch.allclose(prepared, mixer(x, t, given, mask), atol=1e-9)
    assert torch.allclose(prepared, mixer(x, t.expand(N), given, mask), atol=1e-9)


def test_the_column_mean_identity() -> None:
    tokens = doubles(4, D)
    query, key, value = (doubles(D, D, seed=n) for n in (1, 2, 3))
    attention = torch.softmax(tokens @ query @ (tokens @ key).T / math.sqrt(D), 1)
    product = query @ key.T / math.sqrt(D)
    found = AttendedMean.apply(product, None, *(token[None] for token in tokens)) @ value
    assert torch.allclose(found[0], (attention @ tokens @ value).mean(0), atol=1e-12)


def test_gradients_of_the_attended_mean_by_finite_differences() -> None:
    present = torch.tensor([[True, False, True], [True, True, True], [True, True, True]])
    product, shared = doubles(D, D, seed=1), doubles(D, seed=2)
    tokens = [doubles(3, D, seed=n) for n in (3, 4)]
    for leaf in (product, shared, *tokens):
        leaf.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, s, a, b: AttendedMean.apply(p, present, a, b, s), (product, shared, *tokens)
    )


def test_the_order_of_conditions_does_not_matter() -> None:
    mixer, x, t, given, present = mixer_and_inputs(3)
    order = [2, 0, 1]
    turned = mixer(x, t, [given[m] for m in order], present[:, order])
    assert torch.allclose(mixer(x, t, given, present), turned, atol=1e-9)
    assert not torch.allclose(mixer(x, t, given), mixer(x, t, given[:2]), atol=1e-3)


def test_what_a_missing_condition_holds_does_not_matter() -> None:
    mixer, x, t, given, present = mixer_and_inputs(2)
    spoiled = [torch.where(here[:, None], c.detach(), math.nan) for c, here in zip(given, present.T, strict=True)]
    for c in spoiled:
        c.requires_grad_()
    found = mixer(x, t, spoiled, present)
    assert torch.equal(found, mixer(x, t, given, present))
    found.sum().backward()
    for c, here in zip(spoiled, present.T, strict=True):
        assert (c.grad[~here] == 0).all()
        assert (c.grad[here] != 0).any(1).all()


def test_token_mixer_has_three_xavier_maps_and_no_more() -> None:
    torch.manual_seed(0)
    mixer = TokenMixer(64, 20)
    assert sum(p.numel() for p in mixer.parameters()) == 12_288
    for weight in mixer.parameters():
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / 128), rel=0.05)


@pytest.mark.parametrize("hidden", [(), (16,), (16, 12)])
@pytest.mark.parametrize("step_hidden", [None, 6])
def test_mlp_is_layers_on_the_concatenation(hidden: tuple[int, ...], step_hidden: int | None) -> None:
    torch.manual_seed(0)
    mlp = MLP(D, T, [3, 5], hidden=hidden, activation="tanh", step_dim=4, step_hidden=step_hidden)
    x, t, given = normal(N, D), torch.arange(N) % T, [normal(N, 3, seed=1), normal(N, 5, seed=2)]
    present = torch.rand(N, 2, generator=torch.Generator().manual_seed(1)) < 0.5
    layers = [layer for layer in [mlp.first, *mlp.later] if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [*hidden, D]
    found = mlp(x, t, given, present)
    for row in range(N):
        kept = [given[m][row] if present[row, m] else mlp.nulls[m] for m in range(2)]
        value = torch.cat([x[row], mlp.step_map(step_embedding(t[row], 4)), *kept])
        for depth, layer in enumerate(layers):
            value = layer.weight @ (value.tanh() if depth else value) + layer.bias
        assert torch.allclose(found[row], value, atol=1e-5)
    assert torch.allclose(mlp.prepare(given, present)(x, torch.tensor(3)), mlp(x, torch.full((N,), 3), given, present))
    found.sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in mlp.parameters())


def test_mlp_refuses_what_it_was_not_told_of() -> None:
    with pytest.raises(BadOption, match="1 conditions were given and 2 announced"):
        MLP(D, T, [3, 5])(normal(N, D), torch.zeros(N).long(), [normal(N, 3)])
    with pytest.raises(BadOption, match="activation = 'gleu'"):
        MLP(D, T, activation="gleu")


def test_a_network_learns_what_the_condition_says() -> None:
    """x_0 = -condition, and x_t says little of it: the loss falls far below E x_0^2 = 1, the worth of no network."""
    torch.manual_seed(0)
    process, network = Diffusion(schedule("cosine", 5)), MLP(D, 5, [D], hidden=())
    optimizer, generator = torch.optim.Adam(network.parameters(), 2e-2), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(150):
        condition, eps = (torch.randn(64, D, generator=generator) for _ in range(2))
        t = process.antithetic(64, generator)
        loss, _ = process.loss(lambda x, s, c=condition: network(x, s, [c]), -condition, t, eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.9
    assert losses[-1] < 0.01


# another library


def theirs(name: str, steps: int, prediction: str = "sample", scheduler: str = "DDPMScheduler") -> object:
    diffusers = pytest.importorskip("diffusers", reason="an oracle for development only")
    told = {"DDPMScheduler": {"variance_type": "fixed_small"}, "DDIMScheduler": {"timestep_spacing": "trailing"}}
    return getattr(diffusers, scheduler)(
        num_train_timesteps=steps,
        beta_schedule={"quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2"}.get(name, name),
        prediction_type={"v": "v_prediction"}.get(prediction, prediction),
        clip_sample=False,
        **told[scheduler],
    )


@pytest.mark.parametrize("name", ["linear", "quadratic", "cosine", "sigmoid"])
def test_diffusers_has_the_same_schedules(name: str) -> None:
    other, made = theirs(name, 50), schedule(name, 50)
    assert torch.allclose(made.betas, other.betas, rtol=1e-4, atol=1e-6)
    assert torch.allclose(made.abar, other.alphas_cumprod, rtol=2e-3, atol=1e-6)
    x0, eps, t = normal(N, D), normal(N, D, seed=1), torch.arange(N) * 4
    assert torch.allclose(Gaussian(made).noise(x0, t, eps), other.add_noise(x0, eps, t), atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "sigmoid"])
def test_diffusers_takes_the_same_ancestral_steps(name: str, prediction: str) -> None:
    other, process = theirs(name, 50, prediction), Diffusion(schedule(name, 50), prediction)
    x = normal(N, D)
    for t, found, estimate in process.reverse(lambda x, t: x.tanh(), x, noise=None):
        if t:  # its noise is taken out by drawing it again
            drawn = other.step(x.tanh(), t, x, generator=torch.Generator().manual_seed(t))
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
            expected = drawn.prev_sample - process.schedule.sigma[t] * noise
        else:
            drawn = other.step(x.tanh(), t, x)
            expected = drawn.prev_sample
        assert torch.allclose(estimate, drawn.pred_original_sample, atol=1e-3)
        assert torch.allclose(found, expected, atol=1e-3)
        x = found


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_diffusers_takes_the_same_ddim_steps(eta: float, prediction: str) -> None:
    other, process = theirs("linear", 50, prediction, "DDIMScheduler"), Diffusion(schedule("linear", 50), prediction)
    other.set_timesteps(10)
    x, drawn = normal(N, D), {t: normal(N, D, seed=t) for t in range(50)}
    found = list(process.ddim(lambda x, t: x.tanh(), x, 10, eta, noise=drawn.__getitem__))
    assert [t for t, _, _ in found] == other.timesteps.tolist()
    for t, y, _ in found[:-1]:  # at the last step it keeps noise of step 0, where this chain ends clean
        x = other.step(x.tanh(), t, x, eta=eta, variance_noise=drawn[t]).prev_sample
        assert torch.allclose(y, x, atol=1e-3)
        x = y


def test_a_schedule_can_be_made_of_any_betas() -> None:
    made = Schedule(torch.tensor([0.1, 0.5]))
    assert made.abar.tolist() == pytest.approx([0.9, 0.45])
    assert made.c1.tolist() == pytest.approx([1, 0.5 * math.sqrt(0.9) / 0.55])
