"""The attention refiner against slow loops, scipy's, torch's and transformers' own, worked and published counts, limits and symmetries."""

import argparse
import copy
import io
import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import sklearn.metrics.pairwise
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from helpers.methods import attention_refiner as ar
from helpers.methods.attention_refiner import SIZES, MapRefiner, RefinedAttention, RefinerViT
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
TOY_VIT = Path(__file__).parents[2] / "data" / "models" / "toy-vit"
SMALL = dict(image_size=12, patch_size=4, width=8, depth=4, heads=2, classes=5, stem="patch")
PICTURES = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(5))


def seed(value=0):
    return torch.Generator().manual_seed(value)


def normal(*shape, number=0):
    return torch.randn(*shape, generator=seed(number), dtype=torch.float64)


def softmax_maps(*shape, number=0):
    return normal(*shape, number=number).mul(2).softmax(-1)


def moved(module):
    """In float64 and eval mode, with numbers large enough that every part matters, statistics of BatchNorm too."""
    generator = seed(1)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + (parameter.ndim == 1))
        for name, statistic in module.named_buffers():
            if name.endswith(("mean", "var")):
                statistic.copy_(0.5 + torch.rand(statistic.shape, generator=generator, dtype=torch.float64))
    return module.eval()


def small(**changes):
    return moved(RefinerViT(**SMALL | changes))


def weights(refiner):
    """(H', H), (H', k, k), (H, H')."""
    return refiner.expand.weight[..., 0, 0].detach(), refiner.local.weight[:, 0].detach(), refiner.reduce.weight[..., 0, 0].detach()


def close(found, expected, atol=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# ------------------------------------------------------------------------------------------------------------------------- three steps


def slow_convolved(image, kernel):
    """One map (N, M), one kernel (k, k): zeros around it, not mirrored."""
    reach, out = len(kernel) // 2, np.zeros_like(image)
    for i, j in np.ndindex(*image.shape):
        for a, b in itertools.product(range(-reach, reach + 1), repeat=2):
            if 0 <= i + a < image.shape[0] and 0 <= j + b < image.shape[1]:
                out[i, j] += kernel[a + reach, b + reach] * image[i + a, j + b]
    return out


def test_mixing_heads_by_hand():
    maps = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # two heads, one query
    assert ar.mix_heads(maps, [[1.0, 0.0], [0.25, 0.75], [0.0, -1.0]]).tolist() == [[[1.0, 0.0]], [[0.25, 0.75]], [[0.0, -1.0]]]


@pytest.mark.parametrize("side", [1, 3, 5, 9])
def test_convolution_is_scipys(side):
    """A kernel for each map, kernels larger than the map too, maps that are not square."""
    maps, kernels = normal(2, 3, 5, 7), normal(3, side, side, number=1)
    found = ar.convolve(maps, kernels).numpy()
    for b, h in np.ndindex(2, 3):
        whole = scipy.signal.correlate2d(maps[b, h], kernels[h], mode="full")  # "same" would be of the kernel's size where that is larger
        np.testing.assert_allclose(found[b, h], whole[side // 2 : side // 2 + 5, side // 2 : side // 2 + 7], atol=1e-12)
        np.testing.assert_allclose(found[b, h], slow_convolved(maps[b, h].numpy(), kernels[h].numpy()), atol=1e-12)
    torch.testing.assert_close(ar.convolve(maps[0, 1], kernels[1]), torch.from_numpy(found[0, 1]))


def test_over_the_grid_each_row_is_a_picture():
    """Nine keys on a grid of 2 x 4 behind one class token, which keeps its entry."""
    maps, kernels = normal(2, 3, 5, 9), normal(3, 3, 3, number=1)
    found = ar.convolve(maps, kernels, over="grid", grid=(2, 4)).numpy()
    for b, h, i in np.ndindex(2, 3, 5):
        assert found[b, h, i, 0] == maps[b, h, i, 0]
        expected = scipy.signal.correlate2d(maps[b, h, i, 1:].view(2, 4), kernels[h], mode="same")
        np.testing.assert_allclose(found[b, h, i, 1:].reshape(2, 4), expected, atol=1e-12)


def test_what_the_raster_connects_and_the_grid_does_not():
    """A kernel that takes each key's right neighbour, one class token and a grid of 2 x 3: where does the mass of a key go?"""
    shift = torch.zeros(3, 3)
    shift[1, 2] = 1
    for over, grid, expected in (
        ("raster", None, {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5}),  # the class token takes the first patch, the first row's end the second row's start
        ("grid", (2, 3), {0: 0, 2: 1, 3: 2, 5: 4, 6: 5}),
    ):
        found = ar.convolve(torch.eye(7)[:, None], shift, over=over, grid=grid)[:, 0]
        assert {int(i): int(j) for i, j in found.nonzero()} == expected
    up = shift.mT
    assert not ar.convolve(torch.eye(7)[:, None], up).any()  # one query: rows of the kernel reach other queries, never the key above
    assert {int(i): int(j) for i, j in ar.convolve(torch.eye(7)[:, None], up, over="grid", grid=(2, 3))[:, 0].nonzero()} == {0: 0, 4: 1, 5: 2, 6: 3}


def test_three_steps_against_loops():
    maps, expansion, kernels, reduction = softmax_maps(2, 2, 4, 4), normal(3, 2, number=1), normal(3, 3, 3, number=2), normal(2, 3, number=3)
    steps = ar.refine(maps, expansion, kernels, reduction)
    for b, m in np.ndindex(2, 3):
        expanded = sum(expansion[m, i] * maps[b, i] for i in range(2)).numpy()
        np.testing.assert_allclose(steps.expanded[b, m], expanded, atol=1e-12)
        np.testing.assert_allclose(steps.convolved[b, m], slow_convolved(expanded, kernels[m].numpy()), atol=1e-12)
    for b, h in np.ndindex(2, 2):
        close(steps.refined[b, h], sum(reduction[h, m] * steps.convolved[b, m] for m in range(3)))
    assert steps.refined.min() < 0 and not torch.allclose(steps.refined.sum(-1), torch.ones(2, 2, 4).double())  # no attention in the usual sense
    close(ar.refine(maps, expansion, kernels[0], reduction).refined, ar.refine(maps, expansion, kernels[:1].expand(3, 3, 3), reduction).refined)


def test_identity():
    maps, values, centre = softmax_maps(2, 3, 6, 6).float(), normal(2, 3, 6, 4).float(), F.pad(torch.ones(1, 1), [1] * 4)
    found = ar.refine(maps, torch.eye(3), centre, torch.eye(3)).refined
    torch.testing.assert_close(found @ values, maps @ values, rtol=0, atol=1e-7)


def test_row_sums():
    """A row-stochastic mix keeps them; a kernel of sum 1 keeps those of inner rows whose mass stays off the borders."""
    maps, mix = softmax_maps(2, 3, 6, 6), softmax_maps(7, 3)
    close(ar.mix_heads(maps, mix).sum(-1), torch.ones(2, 7, 6).double())
    kernel = softmax_maps(9).view(3, 3)
    assert (ar.convolve(maps, kernel).sum(-1) - 1).abs().amin(2).min() > 1e-3
    inner = maps.clone()
    inner[..., [0, 5]] = 0
    inner = inner / inner.sum(-1, keepdim=True)
    found = ar.convolve(inner, kernel).sum(-1)
    close(found[..., 1:5], torch.ones(2, 3, 4).double())
    assert (found[..., [0, 5]] < 1 - 1e-3).all()


# ------------------------------------------------------------------------------------------------------- the same by averaging values


def test_equivalence_by_hand():
    """N = 3, A = I, V = (1, 2, 3), a kernel that is zero but for w[0, +1] = 1."""
    identity, values, kernel = torch.eye(3), torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, 3)
    kernel[1, 2] = 1
    convolved = ar.convolve(identity, kernel)
    assert convolved.nonzero().tolist() == [[1, 0], [2, 1]] and (convolved @ values).flatten().tolist() == [0, 1, 2]
    aggregated = ar.aggregate_values(values, kernel)
    assert aggregated.shape == (3, 3, 1) and aggregated[1].flatten().tolist() == [0, 1, 2] and not aggregated[[0, 2]].any()
    assert ar.attend_locally(identity, values, kernel).flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("side", [1, 3, 5, 7, 11])
@pytest.mark.parametrize("queries, keys", [(6, 6), (4, 9), (1, 5)])
def test_convolving_maps_is_averaging_values(side, queries, keys):
    maps, values, kernels = normal(2, 3, queries, keys), normal(2, 3, keys, 4, number=1), normal(3, side, side, number=2)
    close(ar.attend_locally(maps, values, kernels), ar.convolve(maps, kernels) @ values)
    close(ar.attend_locally(maps[0, 0], values[0, 0], kernels[0]), ar.convolve(maps[0, 0], kernels[0]) @ values[0, 0])


@pytest.mark.parametrize("side", [1, 3, 5])
def test_convolving_over_the_grid_is_averaging_over_the_grid(side):
    options = dict(over="grid", grid=(2, 4))
    maps, values, kernels = normal(2, 3, 5, 10), normal(2, 3, 10, 4, number=1), normal(3, side, side, number=2)
    close(ar.attend_locally(maps, values, kernels, **options), ar.convolve(maps, kernels, **options) @ values)
    local = ar.aggregate_values(values, kernels, **options)
    close(local[..., :2, :], values[..., :2, :])
    mirrored = F.conv2d(values[0, 1, 2:].mT.view(4, 1, 2, 4), kernels[1].flip(0, 1)[None, None], padding=side // 2)
    close(local[0, 1, 2:], mirrored.view(4, 8).mT)


def locally(refiner, maps, values):
    """What a linear refiner does to values (B, H, N, d), without a map being convolved."""
    expansion, kernels, reduction = weights(refiner)
    expanded, found = ar.mix_heads(maps, expansion), []
    for h in range(refiner.heads):
        of_head = values[:, h : h + 1].expand(-1, refiner.expanded, -1, -1)
        found.append(torch.einsum("m,bmnd->bnd", reduction[h], ar.attend_locally(expanded, of_head, kernels)))
    return torch.stack(found, 1)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_whole_refiner_is_averaging_values(side):
    refiner = moved(MapRefiner(3, kappa=2, kernel=side))
    maps, values = softmax_maps(2, 3, 6, 6), normal(2, 3, 6, 4, number=1)
    close(refiner(maps) @ values, locally(refiner, maps, values))


def test_where_relu6_ends_it():
    """As long as no entry is below 0 or above 6 behind a step, ReLU6 does nothing; one weight that makes some so, and the two sides differ."""
    linear, bent = (MapRefiner(3, kappa=2, activation=flag, generator=seed()).double() for flag in (False, True))
    maps, values = softmax_maps(2, 3, 6, 6), normal(2, 3, 6, 4, number=1)
    positive = [weight.abs() for weight in weights(linear)]
    difference = lambda refiner: (refiner(maps) @ values - locally(refiner, maps, values)).abs().max().item()  # noqa: E731
    for change, expected in ((1, False), (-1, True), (60, True)):
        expansion = positive[0].clone()
        expansion[4] *= change
        for refiner in (linear, bent):
            refiner.set_weights(expansion=expansion, kernels=positive[1], reduction=positive[2])
        assert difference(linear) < 1e-12 and (difference(bent) > 1e-2 if expected else difference(bent) < 1e-12)


def test_what_the_official_block_makes_of_it():
    official = moved(MapRefiner(3, refine="inverted_residual"))
    maps, values = softmax_maps(2, 3, 6, 6), normal(2, 3, 6, 4, number=1)
    assert (official(maps) @ values - locally(official, maps, values)).abs().max() > 1e-2
    one, other = maps, softmax_maps(2, 3, 6, 6, number=9)
    for activation in (False, True):
        refiner = moved(MapRefiner(3, refine="inverted_residual", activation=activation))
        away = lambda x: refiner(x) - refiner(torch.zeros_like(x))  # noqa: B023, E731
        bend = (away(one - 2 * other) - away(one) + 2 * away(other)).abs().max()  # BatchNorm and the sum leave it affine, ReLU6 does not
        assert bend > 1e-2 if activation else bend < 1e-12


# --------------------------------------------------------------------------------------------------------------------------- the layer


@pytest.mark.parametrize("kappa, kernel", [(3, 3), (1, 5), (2.5, 1), (0.5, 3)])
def test_the_linear_layer_is_the_formula(kappa, kernel):
    refiner, maps = moved(MapRefiner(4, kappa=kappa, kernel=kernel)), softmax_maps(2, 4, 5, 5)
    assert refiner.expanded == round(kappa * 4) and ar.parameters(refiner) == refiner.expanded * (8 + kernel**2)
    for found, expected in zip(refiner.steps(maps), ar.refine(maps, *weights(refiner))):
        close(found, expected)
    over_grid = moved(MapRefiner(4, kappa=kappa, kernel=kernel, over="grid", grid=(2, 2)))
    close(over_grid(maps), ar.refine(maps, *weights(over_grid), over="grid", grid=(2, 2)).refined)


@pytest.mark.parametrize("training", [False, True])
def test_the_official_layer_is_an_inverted_residual_block(training):
    refiner, maps = moved(MapRefiner(4, refine="inverted_residual")).train(training), softmax_maps(2, 4, 5, 5)
    conv = lambda i, o, k, g: nn.Conv2d(i, o, k, padding=k // 2, groups=g, bias=False)  # noqa: E731
    block = nn.Sequential(conv(4, 12, 1, 1), nn.BatchNorm2d(12), nn.ReLU6(), conv(12, 12, 3, 12), nn.BatchNorm2d(12), nn.ReLU6(), conv(12, 4, 1, 1),
                          nn.BatchNorm2d(4)).double().train(training)  # fmt: skip
    parts = (refiner.expand, refiner.norms[0], refiner.local, refiner.norms[1], refiner.reduce, refiner.norms[2])
    for part, mine in zip((block[i] for i in (0, 1, 3, 4, 6, 7)), parts):
        part.load_state_dict(mine.state_dict())
    before = maps.clone()
    close(refiner(maps), maps + block(maps))
    assert torch.equal(maps, before)  # nothing is done in place: the maps are used again
    steps = refiner.steps(maps)
    assert steps.expanded.max() <= 6 and steps.expanded.min() >= 0 and steps.convolved.max() <= 6 and steps.convolved.min() >= 0


def test_worked_count_of_parameters():
    counts = [ar.parameters(MapRefiner(12, refine="inverted_residual", **switch)) for switch in (dict(), dict(norm=False), dict(residual=False))]
    assert counts == [1356, 1356 - 2 * (36 + 36 + 12), 1356]  # 432 + 72 + 324 + 72 + 432 + 24
    assert ar.parameters(MapRefiner(12)) == 432 + 324 + 432 and ar.parameters(MapRefiner(12, kernel=1, kappa=1)) == 144 + 12 + 144


@pytest.mark.parametrize("options", [dict(kappa=1), dict(kappa=3), dict(kappa=1.5, kernel=5), dict(kernel=1), dict(activation=True),
                                     dict(refine="inverted_residual"), dict(residual=True, kappa=0.5), dict(residual=True, norm=True),
                                     dict(over="grid", grid=(2, 2))])  # fmt: skip
def test_the_start_that_changes_nothing_and_yet_learns(options):
    refiner, maps = MapRefiner(4, start="identity", generator=seed(), **options).eval(), softmax_maps(2, 4, 5, 5).float()
    assert torch.equal(refiner(maps), maps)
    optimiser = torch.optim.SGD(refiner.parameters(), lr=1.0)
    for _ in range(3):
        optimiser.zero_grad()
        (refiner(maps) - maps.roll(1, -1)).square().mean().backward()
        optimiser.step()
    for parameter in (refiner.expand.weight, refiner.local.weight, refiner.reduce.weight):
        takes_part = parameter.grad.abs().flatten(1).amax(1) > 0
        assert takes_part.float().mean() > 0.5 if isinstance(refiner.activation, nn.ReLU6) else takes_part.all()  # ReLU6 leaves some maps at 0
    apart = torch.pdist(refiner.expand.weight.flatten(1))
    assert apart.min() > 1e-2  # and no two are alike


@pytest.mark.parametrize("options", [dict(kappa=0.5), dict(norm=True), dict(refine="inverted_residual", residual=False)])
def test_starts_that_cannot_be_the_identity(options):
    with pytest.raises(ValueError, match="start must be random where there is no residual but a norm, or fewer maps than heads, got 'identity'"):
        MapRefiner(4, start="identity", **options)


def test_a_random_start_is_torchs_own_and_drawn_from_the_generator():
    one, same, other = (MapRefiner(16, generator=seed(number)) for number in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(same))) and not torch.equal(one.expand.weight, other.expand.weight)
    for layer in (one.expand, one.local, one.reduce):
        fresh = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups, bias=False).weight
        assert abs(layer.weight.std() / fresh.std() - 1) < 0.1 and abs(layer.weight.abs().max() / fresh.abs().max() - 1) < 0.05


@pytest.mark.parametrize(
    "make", [lambda **o: MapRefiner(4, **o), lambda **o: MapRefiner(4, start="identity", **o), lambda **o: RefinedAttention(8, 4, **o),
             lambda **o: RefinedAttention(8, 4, kind="share", **o), lambda **o: RefinerViT(**SMALL, **o),
             lambda **o: ar.refine_vit(vit(), **o).refiners],
)  # fmt: skip
def test_what_has_a_generator_is_drawn_from_it_alone(make):
    torch.manual_seed(0)
    vit()  # which sets torch's own
    before = torch.get_rng_state()
    one = make(generator=seed(3)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert all(torch.equal(value, one[name]) for name, value in make(generator=seed(3)).state_dict().items())


def test_permuting_heads_permutes_what_comes_out():
    refiner, maps, order = moved(MapRefiner(4)), softmax_maps(2, 4, 5, 5), [2, 0, 3, 1]
    expansion, kernels, reduction = weights(refiner)
    close(ar.refine(maps[:, order], expansion[:, order], kernels, reduction[order]).refined, refiner(maps)[:, order])


def test_permuting_tokens_goes_through_a_kernel_of_1_only():
    maps, order = softmax_maps(2, 4, 5, 5), [3, 1, 4, 0, 2]
    permuted = lambda x: x[:, :, order][..., order]  # noqa: E731
    for kernel in (1, 3):
        refiner = moved(MapRefiner(4, kernel=kernel))
        difference = (refiner(permuted(maps)) - permuted(refiner(maps))).abs().max()
        assert difference < 1e-12 if kernel == 1 else difference > 1e-2


def test_numbers_are_put_in():
    refiner, mean = MapRefiner(3, kappa=1, start="identity"), torch.full((3, 3), 1 / 9)
    assert refiner.set_weights(kernels=mean) is refiner
    maps = softmax_maps(1, 3, 5, 5).float()
    torch.testing.assert_close(refiner(maps), F.avg_pool2d(maps, 3, 1, 1))
    refiner.set_weights(expansion=np.eye(3)[[1, 2, 0]], kernels=F.pad(torch.ones(3, 1, 1), [1] * 4))
    torch.testing.assert_close(refiner(maps), maps[:, [1, 2, 0]])
    before = copy.deepcopy(refiner.state_dict())
    for wrong, text in (
        (dict(expansion=np.eye(3), kernels=np.ones((5, 5))), r"kernels must be floating-point numbers \(\.\.\., 3, 3\), got shape \(5, 5\)"),
        (dict(expansion=np.eye(3), kernels=np.ones((2, 3, 3))), r"kernels must be \(3, 3, 3\) or one of these, got shape \(2, 3, 3\)"),
        (dict(expansion=np.eye(3), reduction=np.ones((2, 3))), r"reduction must be floating-point numbers \(3, 3\), got shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=text):
            refiner.set_weights(**wrong)
    assert all(torch.equal(value, before[name]) for name, value in refiner.state_dict().items())


def test_numbers_that_are_views_of_the_layers_own_are_put_in_as_they_were():
    refiner = MapRefiner(3, kappa=1, generator=seed())
    expansion, _, reduction = (value.clone() for value in weights(refiner))
    own, _, last = weights(refiner)
    refiner.set_weights(expansion=last, reduction=own)
    assert torch.equal(weights(refiner)[0], reduction) and torch.equal(weights(refiner)[2], expansion)


def test_finite_numbers_do_not_become_infinite_unnoticed():
    maps, values, large = softmax_maps(2, 3, 5, 5).half(), normal(2, 3, 5, 4).half(), torch.full((3, 3), 1e6)
    refiner = MapRefiner(3, kappa=1)
    before = copy.deepcopy(refiner.state_dict())
    for name, call in (
        ("weight", lambda: ar.mix_heads(maps, large)), ("kernels", lambda: ar.convolve(maps, large)), ("kernels", lambda: ar.aggregate_values(values, large)),
        ("expansion", lambda: ar.refine(maps, large, MEAN, np.eye(3))), ("reduction", lambda: ar.refine(maps, np.eye(3), MEAN, large)),
        ("values", lambda: ar.attend_locally(maps, values.double() * 1e6, MEAN)),
        ("reduction", lambda: refiner.set_weights(expansion=np.eye(3), reduction=np.full((3, 3), 1e300))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name} must be finite as float(16|32), in which it is used, got [\d.]+e\+"):
            call()
    assert all(torch.equal(value, before[name]) for name, value in refiner.state_dict().items())


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: MapRefiner(4, kernel=4), "kernel must be odd, got 4"), (lambda: MapRefiner(4, kappa=0.1), "kappa must leave a map or more, .* got 0.1 for 4"),
        (lambda: MapRefiner(4, refine="official"), "refine must be one of linear, inverted_residual"),
        (lambda: MapRefiner(4, grid=(2, 2)), "grid must be None over the raster"), (lambda: MapRefiner(4, over="grid"), r"grid must be \(rows, columns\)"),
        (lambda: MapRefiner(4)(torch.ones(2, 3, 5, 5)), r"maps must be a floating-point tensor \(B, 4, N, M\), got shape \(2, 3, 5, 5\)"),
        (lambda: MapRefiner(4, over="grid", grid=(2, 3))(torch.ones(2, 4, 5, 5)), "maps must have the 6 keys of grid 2 x 3 or more, got 5"),
        (lambda: ar.convolve(torch.ones(5, 5), torch.ones(2, 2)), r"kernels must be \(k, k\) or \(H, k, k\) with an odd k, got shape \(2, 2\)"),
        (lambda: ar.convolve(torch.ones(3, 5, 5), torch.ones(2, 3, 3)), "kernels must be one, .* or as many as there are maps"),
        (lambda: ar.convolve(torch.ones(5, 5), torch.ones(3, 3), over="grid", grid=(2, 3)), "maps must have the 6 keys"),
        (lambda: ar.attend_locally(torch.ones(5, 5), torch.ones(6, 2), torch.ones(3, 3)), r"values must be .* a row for each key of maps, \(5, 5\)"),
        (lambda: ar.refine(torch.ones(2, 5, 5), torch.eye(2), torch.ones(3, 3, 3), torch.eye(2)), "as many as there are expanded maps"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, text):
    with pytest.raises((ValueError, TypeError), match=text):
        call()


# ---------------------------------------------------------------------------------------------------------------- attention and blocks


@pytest.mark.parametrize("kind", ["plain", "self"])
def test_attention_without_refinement_is_torchs_own(kind):
    layer = RefinedAttention(12, 3, kind=kind, start="identity").double()
    plain = nn.MultiheadAttention(12, 3, batch_first=True).double()
    plain.in_proj_weight.data, plain.in_proj_bias.data = layer.qkv.weight.data, layer.qkv.bias.data
    plain.out_proj.load_state_dict(layer.proj.state_dict())
    tokens = normal(2, 7, 12)
    expected, maps = plain(tokens, tokens, tokens, average_attn_weights=False)
    found, handed = layer(tokens)
    close(found, expected), close(handed, maps), close(layer.maps(tokens)[0], maps)


def test_share_attends_with_refined_maps_and_hands_on_those_that_came():
    tokens, carried = normal(2, 7, 12), softmax_maps(2, 3, 7, 7)
    for refine, rescale, scale in (("linear", None, 1), ("inverted_residual", None, 0.5), ("inverted_residual", False, 1), ("linear", True, 0.5)):
        layer = moved(RefinedAttention(12, 3, kind="share", refine=refine, rescale=rescale))  # d = 4
        norm = layer.norm if refine == "inverted_residual" else nn.Identity()
        assert isinstance(layer.norm, nn.BatchNorm2d) == (refine == "inverted_residual") and layer.qkv.weight.shape == (12, 12)
        maps = scale * norm(layer.refiner(carried))
        values = layer.qkv(tokens).view(2, 7, 3, 4).transpose(1, 2)
        found, handed = layer(tokens, carried)
        close(found, layer.proj((maps @ values).transpose(1, 2).reshape(2, 7, 12)))
        assert handed is carried


def test_attention_takes_maps_for_each_head_and_picture_only():
    attention, tokens, maps = RefinedAttention(12, 3, generator=seed()), normal(2, 5, 12).float(), softmax_maps(2, 3, 5, 5).float()
    for wrong in (maps[:, :1], maps[:1], maps[..., :4, :]):
        with pytest.raises(ValueError, match=r"maps must be a floating-point tensor \(2, 3, 5, 5\), got shape"):
            attention.attend(tokens, wrong)
    with pytest.raises(ValueError, match=r"tokens must be a floating-point tensor \(B, N, 12\), got shape \(2, 3, 5, 5\)"):
        attention.attend(maps, tokens)
    torch.testing.assert_close(attention(tokens.double(), maps.double())[0], attention(tokens, maps)[0])


def test_a_block_that_refines_its_own_maps_does_not_scale_them_again():
    layer, tokens, carried = moved(RefinedAttention(12, 3, kind="self", refine="inverted_residual")), normal(2, 7, 12), softmax_maps(2, 3, 7, 7)
    maps, made = layer.maps(tokens, carried)
    close(maps, layer.norm(layer.refiner(made)))
    close(made, layer.maps(tokens)[1] + 0.5 * carried)  # what is handed over is added, times s
    layer.accumulate = False
    close(layer.maps(tokens, carried)[1], layer.maps(tokens)[1])


def test_row_sums_of_accumulated_maps():
    """1, 1 + s, 1 + s + s^2, ... over plain blocks; share blocks hand on what came."""
    model = small(width=64, heads=2, depth=8, refine="inverted_residual")
    s, sums = 32**-0.5, [trace.carried.sum(-1) for trace in model.trace(PICTURES)]
    for i, found in enumerate(sums):
        close(found, torch.full_like(found, sum(s**k for k in range(i // 2 + 1))))
    assert round(1 / (1 - s), 4) == 1.2147 and abs(sums[-1][0, 0, 0].item() - 1.2147) < 2e-3
    traces = model.trace(PICTURES)
    assert all(traces[i].carried is traces[i - 1].carried for i in (1, 3, 5, 7))


def test_refined_maps_may_be_negative_and_nothing_minds():
    model = small()
    maps = model.trace(PICTURES)[1].maps
    assert maps.min() < -0.1 and (maps.sum(-1) - 1).abs().max() > 0.1 and model(PICTURES).isfinite().all()
    assert ar.similarity_by_layer([trace.maps for trace in model.trace(PICTURES)]).abs().max() <= 1


def test_gradients_reach_queries_and_keys_by_both_ways():
    plain, share = moved(RefinedAttention(12, 3, kind="plain")), moved(RefinedAttention(12, 3, kind="share"))
    tokens = normal(2, 7, 12)
    own, handed = plain(tokens)
    through = share(tokens, handed)[0]
    grads = [torch.autograd.grad(out.square().sum(), plain.qkv.weight, retain_graph=True)[0] for out in (own, through)]
    for grad in grads:
        assert grad[:12].abs().max() > 1e-6 and grad[12:24].abs().max() > 1e-6  # queries, keys
    assert grads[0][24:].abs().max() > 1e-6 and not grads[1][24:].any()  # the plain block's values do not enter the other's output


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: RefinerViT(**SMALL | dict(blocks=("share", "plain"))), r"blocks must be .*, the first of which makes maps, got \('share', 'plain'\)"),
        (lambda: RefinedAttention(12, 3, kind="share")(torch.ones(2, 7, 12)), "carried must be the maps of a block before"),
        (lambda: RefinedAttention(12, 3, kind="share")(torch.ones(2, 7, 12), torch.ones(2, 3, 6, 6)), "carried must be .* got shape"),
        (lambda: RefinedAttention(12, 5), "dim must be a multiple of the number of heads, 5, got 12"),
        (lambda: RefinerViT(**SMALL | dict(patch_size=5)), "patch_size must divide image_size, 12, got 5"),
        (lambda: RefinerViT(**SMALL | dict(patch_size=3, stem="conv")), "patch_size must be even for stem 'conv', got 3"),
        (lambda: RefinerViT(**SMALL | dict(drop_path=1)), r"drop_path must be a finite number in \[0, 1\), got 1"),
        (lambda: RefinerViT(**SMALL | dict(mlp_ratio=0.01)), "mlp_ratio must leave a hidden unit or more"),
        (lambda: small()(PICTURES[..., :8, :8]), r"pictures must be a floating-point tensor \(B, 3, 12, 12\), got shape"),
    ],
)  # fmt: skip
def test_what_makes_no_network_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_block_step_by_step():
    block, tokens = small(depth=1, blocks=("plain",)).blocks[0], normal(2, 10, 8)
    after = tokens + 2 * block.attention(block.norm1(0.5 * tokens))[0]
    hidden = F.gelu(block.mlp.fc1(block.norm2(0.5 * after)))
    close(block(tokens, None).tokens, after + 2 * block.mlp.gain * block.mlp.fc2(hidden))


def test_what_branch_scale_does():
    """Half of the input matters to the norm through its eps alone; each branch counts twice."""
    one, two = (small(depth=1, blocks=("plain",), branch_scale=scale) for scale in (1, 2))
    tokens = 10 * normal(2, 10, 8)
    first, second = (model.blocks[0].norm1(tokens / model.blocks[0].branch_scale) for model in (one, two))
    assert 0 < (first - second).abs().max() < 1e-6
    added = [model.blocks[0].attention(first)[0] for model in (one, two)]
    close(*added)
    assert {type(block.mlp.gain) for block in RefinerViT(**SMALL, layer_scale=None).blocks} == {type(None)}
    assert {gain for block in RefinerViT(**SMALL).blocks for gain in block.mlp.gain.tolist()} == {torch.tensor(1e-5).item()}


def test_stochastic_depth_keeps_the_mean_and_grows_with_depth():
    model = small(drop_path=0.3)
    assert [round(block.drop_path, 3) for block in model.blocks] == [0, 0.1, 0.2, 0.3]
    block, tokens = model.blocks[3].train(), torch.ones(4000, 1, 8).double()
    torch.manual_seed(0)
    kept = block._kept(tokens) / block.branch_scale
    assert set(kept.flatten().tolist()) <= {0.0, 1 / (1 - 0.3)} and abs(kept.mean().item() - 1) < 0.05
    assert (kept == kept[:, :, :1]).all()  # a picture's branch as a whole
    assert torch.equal(block.eval()._kept(tokens), 2 * tokens)


# --------------------------------------------------------------------------------------------------------------------------- networks


def test_an_ordinary_vision_transformer_is_that_of_transformers():
    options = dict(blocks=("plain",), accumulate=False, branch_scale=1, layer_scale=None, mlp_ratio=2)
    model = small(**options)
    config = transformers.ViTConfig(image_size=12, patch_size=4, hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
                                    num_labels=5, layer_norm_eps=1e-6, attn_implementation="eager")  # fmt: skip
    peer = transformers.ViTForImageClassification(config).double().eval()
    state = {"vit.embeddings.cls_token": model.class_token, "vit.embeddings.position_embeddings": model.positions}
    pairs = {"vit.embeddings.patch_embeddings.projection": model.stem.proj, "vit.layernorm": model.norm, "classifier": model.head}
    for i, block in enumerate(model.blocks):
        at = f"vit.layers.{i}"
        for j, name in enumerate(("q_proj", "k_proj", "v_proj")):
            state |= {f"{at}.attention.{name}.{leaf}": getattr(block.attention.qkv, leaf).chunk(3)[j] for leaf in ("weight", "bias")}
        pairs |= {f"{at}.attention.o_proj": block.attention.proj, f"{at}.layernorm_before": block.norm1, f"{at}.layernorm_after": block.norm2,
                  f"{at}.mlp.fc1": block.mlp.fc1, f"{at}.mlp.fc2": block.mlp.fc2}  # fmt: skip
    peer.load_state_dict(state | {f"{name}.{leaf}": value for name, layer in pairs.items() for leaf, value in layer.state_dict().items()})
    expected = peer(PICTURES, output_attentions=True)
    close(model(PICTURES), expected.logits, atol=1e-6)
    for trace, maps in zip(model.trace(PICTURES), expected.attentions, strict=True):
        close(trace.maps, maps, atol=1e-6)  # transformers takes its softmax in float32
    same = RefinerViT(**SMALL | options | dict(blocks=("self",), start="identity")).double().eval()
    same.load_state_dict(model.state_dict(), strict=False)
    close(same(PICTURES), model(PICTURES))


def test_the_stem_is_convolutions():
    model = moved(RefinerViT(**SMALL | dict(stem="conv")))
    convs = nn.Sequential()
    for i, o, k, s in ((3, 32, 7, 2), (32, 64, 3, 1), (64, 128, 3, 1)):
        convs.extend([nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU()])
    convs.append(nn.Conv2d(128, 8, 2, 2))
    convs.double().eval().load_state_dict({name.replace("convs.", "").replace("proj", "9"): value for name, value in model.stem.state_dict().items()})
    close(model.stem(PICTURES.double()), convs(PICTURES.double()).flatten(2).mT)
    assert model.trace(PICTURES)[0].tokens.shape == (3, 10, 8)


def test_the_head_of_tokens():
    model = small(token_head=True)
    of_class, of_tokens = model.class_and_token_logits(PICTURES)
    tokens = model.norm(model.trace(PICTURES)[-1].tokens)
    close(of_class, model.head(tokens[:, 0])), close(of_tokens, model.token_head(tokens[:, 1:]))
    close(model(PICTURES), of_class + 0.5 * of_tokens.max(1).values)
    close(model.features(PICTURES), tokens[:, 0])
    plain = small()
    assert plain.class_and_token_logits(PICTURES)[1] is None and torch.equal(plain(PICTURES), plain.class_and_token_logits(PICTURES)[0])


def test_networks_are_drawn_from_a_generator():
    one, same, other = (RefinerViT(**SMALL | dict(stem="conv", token_head=True), generator=seed(number)).eval()(PICTURES) for number in (3, 3, 4))
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_a_network_of_another_picture_size():
    """Positions are interpolated; statistics of maps are of the old size, until they are measured anew."""
    model = small(refine="inverted_residual", depth=2)
    larger = model.resized(24)
    assert torch.equal(model.resized(12).positions, model.positions) and larger.positions.shape == (1, 37, 8) and model.image_size == 12
    pictures = F.interpolate(PICTURES, size=24)
    norm = larger.blocks[1].attention.norm
    torch.optim.swa_utils.update_bn([(PICTURES,)], model)
    old = copy.deepcopy(model.blocks[1].attention.norm)
    torch.optim.swa_utils.update_bn([(pictures,)], larger)
    first = lambda one: one.blocks[1].attention.refiner.norms[0].running_mean / one.blocks[1].attention.refiner.expand.weight[..., 0, 0].sum(1)  # noqa: E731
    close(first(model), torch.full_like(first(model), 1 / 10))  # a mean entry of a map is 1 / N
    close(first(larger), torch.full_like(first(larger), 1 / 37))
    assert not torch.allclose(old.running_mean, norm.running_mean, rtol=0.05)
    grid = small(over="grid", depth=2).resized(24)
    assert grid.blocks[1].attention.refiner.grid == (6, 6) and grid(pictures).shape == (3, 5)
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size, 4, got 14"):
        model.resized(14)


def test_frozen_positions_stay_frozen_at_another_picture_size():
    assert not any(p.requires_grad for p in small().requires_grad_(False).resized(24).parameters())


def hollow(size, **changes):
    with torch.device("meta"):
        return RefinerViT(**SIZES[size] | changes)


@pytest.mark.parametrize("size, millions, gmacs", [("S", 25.41, 6.82), ("M", 55.45, 13.50), ("L", 81.15, 19.19)])
def test_published_parameters_and_multiply_adds(size, millions, gmacs):
    model = hollow(size)
    assert round(ar.parameters(model) / 1e6, 2) == millions and round(ar.macs(model) / 1e9, 2) == gmacs
    assert {block.attention.refiner.expanded for block in model.blocks[1::2]} == {3 * SIZES[size]["heads"]}
    assert [block.attention.kind for block in model.blocks] == ["plain", "share"] * (SIZES[size]["depth"] // 2)


def test_the_toy_size():
    model = RefinerViT(**SIZES["toy-32"])
    assert round(ar.parameters(model) / 1e6, 2) == 0.23 and model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    cost = {kernel: ar.macs(RefinerViT(**SIZES["toy-32"] | dict(kernel=kernel))) for kernel in (1, 3)}
    assert cost[3] - cost[1] == 3 * 12 * 8 * 65**2  # three share blocks, 12 maps, 8 more entries of a kernel


# ---------------------------------------------------------------------------------------------------------------- the authors' weights


def official_shapes(width, depth, heads, image_size=224, classes=1000):
    """Names and shapes of the official model, written out."""
    hidden, shapes = 3 * heads, {"cls_token": (1, 1, width), "pos_embed": (1, (image_size // 16) ** 2 + 1, width)}

    def put(name, *weight, bias=True):
        shapes.update({f"{name}.weight": weight} | ({f"{name}.bias": weight[:1]} if bias else {}))

    def batch(name, size):
        put(name, size)
        shapes.update({f"{name}.running_mean": (size,), f"{name}.running_var": (size,), f"{name}.num_batches_tracked": ()})

    for i, (inner, outer, side) in enumerate(((3, 32, 7), (32, 64, 3), (64, 128, 3)), 1):
        put(f"patch_embed.conv{i}", outer, inner, side, side, bias=False), batch(f"patch_embed.bn{i}", outer)
    put("patch_embed.proj", width, 128, 8, 8)
    for i in range(depth):
        at = f"blocks.{i}"
        put(f"{at}.norm1", width), put(f"{at}.norm2", width), put(f"{at}.attn.proj", width, width)
        put(f"{at}.mlp.fc1", 3 * width, width), put(f"{at}.mlp.fc2", width, 3 * width)
        shapes[f"{at}.mlp.gamma"] = (width,)
        put(f"{at}.attn.qkv", width if i % 2 else 3 * width, width)
        if i % 2:
            put(f"{at}.attn.DLA.conv_exp", hidden, heads, 1, 1, bias=False), put(f"{at}.attn.DLA.depth_sep_conv", hidden, 1, 3, 3, bias=False)
            put(f"{at}.attn.DLA.conv_pro", heads, hidden, 1, 1, bias=False)
            batch(f"{at}.attn.DLA.bn1", hidden), batch(f"{at}.attn.DLA.bn2", hidden), batch(f"{at}.attn.DLA.bn3", heads), batch(f"{at}.attn.adapt_bn", heads)
    put("norm", width), put("head", classes, width), put("aux_head", classes, width)
    return shapes


@pytest.mark.parametrize("size, image_size", [("S", 224), ("M", 224), ("L", 448)])
def test_names_and_shapes_of_the_official_files(size, image_size):
    model = hollow(size, image_size=image_size)
    state, sizes = model.state_dict(), {name: SIZES[size][name] for name in ("width", "depth", "heads")}
    found = {official: tuple(state[name].shape) for name, official in ar.official_names(model).items()}
    assert found == official_shapes(**sizes, image_size=image_size) and len(found) == len(state)


OFFICIAL = dict(SMALL, stem="conv", refine="inverted_residual", token_head=True, depth=2)


def official_state(model):
    return {there: model.state_dict()[here] for here, there in ar.official_names(model).items()}


@pytest.mark.parametrize("form", ["plain", "in a checkpoint", "of several processes"])
def test_weights_from_a_local_file(form, tmp_path):
    source, target = moved(RefinerViT(**OFFICIAL)), RefinerViT(**OFFICIAL).double().eval()
    state = official_state(source)
    forms = {"plain": state, "in a checkpoint": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3)},
             "of several processes": {"state_dict": {f"module.{name}": value for name, value in state.items()}}}  # fmt: skip
    torch.save(forms[form], tmp_path / "refiner.pth")
    assert ar.load_official(target, tmp_path / "refiner.pth") is target
    assert torch.equal(target(PICTURES), source(PICTURES))


def test_weights_under_other_names():
    source, target = moved(RefinerViT(**OFFICIAL)), RefinerViT(**OFFICIAL).double().eval()
    names = {here: f"net.{there}" for here, there in ar.official_names(source).items()}
    ar.from_official({there: source.state_dict()[here] for here, there in names.items()}, target, names=names)
    assert torch.equal(target(PICTURES), source(PICTURES))
    one, *_ = names
    for wrong in ({one: "x"}, names | {one: names["norm.weight"]}):
        with pytest.raises(ValueError, match=r"names must give each entry of model.state_dict\(\) a name of its own"):
            ar.from_official(official_state(source), target, names=wrong)


def test_files_that_are_absent_or_do_not_fit(tmp_path):
    model = RefinerViT(**OFFICIAL)
    with pytest.raises(ValueError, match="path must be a local file of the official weights .the authors keep one on Google Drive only, that of L at 448 px"):
        ar.load_official(model, tmp_path / "refiner.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="path must be a file of weights that torch.load can read safely, got text.pth"):
        ar.load_official(model, tmp_path / "text.pth")
    before, state = copy.deepcopy(model.state_dict()), official_state(moved(RefinerViT(**OFFICIAL)))
    short = {name: value for name, value in state.items() if name != "head.bias"}
    for wrong, text in (
        (short, r"got 1 \(head.bias\) too few and none too many"),
        (short | {"head.bias": torch.zeros(4)}, r"state must have head.bias of shape \(5,\), got \(4,\)"),
        (state | {"dist_token": torch.zeros(1)}, r"got none too few and 1 \(dist_token\) too many"),
    ):
        with pytest.raises(ValueError, match=text):
            ar.from_official(wrong, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_weights_that_are_no_finite_numbers_leave_the_model_as_it_was(tmp_path):
    model, state = RefinerViT(**OFFICIAL), official_state(moved(RefinerViT(**OFFICIAL)))
    before, bias = copy.deepcopy(model.state_dict()), state["head.bias"]
    for wrong, text in (
        (bias.to(torch.complex64), r"state must have head.bias as a float32 tensor or one like it, got complex64 tensor of shape \(5,\)"),
        (bias.long(), r"head.bias as a float32 tensor or one like it, got int64"), (bias.to("meta"), "got float64 tensor of shape .* on meta"),
        (bias * math.nan, "state must have finite numbers in head.bias, got others"), (bias + 1e300, "head.bias, got others, or some beyond float32"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            ar.from_official(state | {"head.bias": wrong}, model)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match="path must be a file of weights that torch.load can read safely, got empty.pth: EOFError"):
        ar.load_official(model, tmp_path / "empty.pth")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "changes, text",
    [(dict(stem="patch"), "stem='conv'"), (dict(refine="linear"), "refine='inverted_residual', got 'linear' in block 1"),
     (dict(blocks=("self",)), "got 'self' in block 0"), (dict(layer_scale=None), "got layer_scale=None"),
     (dict(over="grid"), "over='raster', got 'grid' in block 1"), (dict(rescale=False), "rescale=True, got False in block 1"),
     (dict(accumulate=False), "accumulate=True, got False in block 0"), (dict(branch_scale=1), "branch_scale=2, got 1 in block 0")],
)  # fmt: skip
def test_models_that_have_no_official_names(changes, text):
    with pytest.raises(ValueError, match=f"model must have .*{text}"):
        ar.official_names(RefinerViT(**OFFICIAL | changes))


# -------------------------------------------------------------------------------------------------------------------- how alike maps are


def test_similarity_of_heads_is_the_mean_cosine_of_pairs():
    maps = softmax_maps(2, 4, 5, 6)
    for one, value in zip(maps, ar.head_similarity(maps)):
        cosines = sklearn.metrics.pairwise.cosine_similarity(one.flatten(1).numpy())
        assert value.item() == pytest.approx(np.mean([cosines[i, j] for i, j in itertools.combinations(range(4), 2)]), abs=1e-12)
    assert ar.head_similarity(maps[:, :1].expand(-1, 3, -1, -1)).tolist() == pytest.approx([1, 1])
    assert ar.head_similarity(torch.eye(3).view(3, 1, 3)).item() == 0
    assert ar.head_similarity(torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 0.0]]])).item() == pytest.approx(-1 / 3)  # a map of zeros is like none
    close(ar.head_similarity(1e-300 * maps), ar.head_similarity(maps))
    torch.testing.assert_close(ar.head_similarity(maps.bfloat16()), ar.head_similarity(maps).float(), atol=1e-2, rtol=0)


def test_similarity_of_layers_along_maps_and_along_heads():
    one, other = softmax_maps(2, 3, 5, 6), softmax_maps(2, 3, 5, 6, number=1)
    close(ar.layer_similarity(one, other), F.cosine_similarity(one.flatten(2), other.flatten(2), dim=-1).mean(1))
    close(ar.layer_similarity(one, other, along="heads"), F.cosine_similarity(one, other, dim=1).mean((1, 2)))
    scaled = one * torch.arange(1.0, 6).double().view(5, 1)  # each query's row by a factor of its own
    assert ar.layer_similarity(one, scaled, along="heads").tolist() == pytest.approx([1, 1]) and ar.layer_similarity(one, scaled).max() < 0.99


def test_rounding_leads_no_similarity_out_of_its_range():
    for number in range(30):
        same, parts = normal(6, 40, number=number).float(), torch.block_diag(*softmax_maps(4, 1, 10, number=number).float()).view(4, 1, 40)
        assert ar.head_similarity(same.expand(5, 6, 40)) <= 1 and ar.head_similarity(torch.stack([same, -same])) >= -1
        assert ar.head_similarity(parts) == 0 and ar.linear_cka(normal(9, 4, number=number), 3 * normal(9, 4, number=number)) <= 1


def test_layers_of_unlike_precision_are_compared_at_any_scale():
    one, other = softmax_maps(2, 3, 5, 6), softmax_maps(2, 3, 5, 6, number=1)
    for scale in (1e-60, 1e60):
        found = ar.layer_similarity(one.float(), scale * other)
        torch.testing.assert_close(found, ar.layer_similarity(one, other).float())


def test_similarity_by_layer():
    layers = [softmax_maps(2, 3, 5, 5, number=i) for i in range(4)]
    close(ar.similarity_by_layer(layers), torch.stack([ar.head_similarity(maps).mean() for maps in layers]))
    close(ar.similarity_by_layer(torch.stack(layers)), ar.similarity_by_layer(layers))
    close(ar.similarity_by_layer(layers, of="neighbours"), torch.stack([ar.layer_similarity(a, b).mean() for a, b in itertools.pairwise(layers)]))
    assert len(ar.similarity_by_layer([layers[0], layers[1][:, :2, :4]])) == 2  # layers may differ where they are not compared
    for call in (lambda: ar.similarity_by_layer(layers[:1], of="neighbours"), lambda: ar.similarity_by_layer([layers[0][:, :1]])):
        with pytest.raises(ValueError, match="maps must have (2 layers|two heads) or more"):
            call()


def test_the_auxiliary_loss_pushes_layers_apart():
    logits = [normal(2, 3, 5, 5, number=i).requires_grad_() for i in range(3)]
    loss = ar.neighbour_loss([x.softmax(-1) for x in logits])
    maps = [x.softmax(-1) for x in logits]
    close(loss, 0.1 * (F.cosine_similarity(maps[0], maps[1], dim=1).mean() + F.cosine_similarity(maps[1], maps[2], dim=1).mean()) / 2)
    loss.backward()
    with torch.no_grad():
        assert ar.neighbour_loss([(x - 10 * x.grad).softmax(-1) for x in logits]) < loss


def test_linear_cka():
    x, y = normal(9, 4), normal(9, 6, number=1)
    centre = np.eye(9) - 1 / 9
    gram = lambda a: centre @ (a @ a.mT).numpy() @ centre  # noqa: E731
    hsic = lambda a, b: np.sum(gram(a) * gram(b))  # noqa: E731
    assert ar.linear_cka(x, y) == pytest.approx(hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y)), abs=1e-12)
    turn = torch.linalg.qr(normal(4, 4, number=2))[0]
    assert ar.linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1) == ar.linear_cka(1e-200 * x, x)
    with pytest.raises(ValueError, match="y must have rows that differ"):
        ar.linear_cka(x, torch.full((9, 2), 0.1))


def test_evolution_of_features():
    tokens = [normal(2, 5, 4, number=i) for i in range(3)]
    found = ar.feature_evolution(tokens)
    close(found.cosine, torch.stack([F.cosine_similarity(one, tokens[-1], dim=-1).mean() for one in tokens]))
    close(found.cka, torch.tensor([ar.linear_cka(one.flatten(0, 1), tokens[-1].flatten(0, 1)) for one in tokens], dtype=torch.float64))
    assert found.cosine[-1].item() == pytest.approx(1) == found.cka[-1].item()


def test_an_average_of_heads_makes_maps_more_alike():
    """Expansion by itself adds no diversity: with rows that sum to 1, new maps lie between the old ones."""
    maps = softmax_maps(4, 4, 9, 9)
    assert (ar.head_similarity(ar.mix_heads(maps, softmax_maps(12, 4, number=1))) > ar.head_similarity(maps)).all()


# ------------------------------------------------------------------------------------------------------------------ transformers' models

VITS = {
    "ViT": (transformers.ViTConfig, transformers.ViTForImageClassification), "DeiT": (transformers.DeiTConfig, transformers.DeiTModel),
    "DINOv2": (transformers.Dinov2Config, transformers.Dinov2Model), "MSN": (transformers.ViTMSNConfig, transformers.ViTMSNModel),
    "registers": (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel),
    "I-JEPA": (transformers.IJepaConfig, transformers.IJepaModel),
}  # fmt: skip


def vit(kind="ViT", implementation="eager", **changes):
    torch.manual_seed(0)
    config, model = VITS[kind]
    sizes = dict(image_size=12, patch_size=4, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=16, mlp_ratio=2)
    made = model(config(**sizes | changes, attn_implementation=implementation)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made


def read(model, pictures=PICTURES):
    with torch.no_grad():
        return model(pictures)[0]


MEAN = torch.full((3, 3), 1 / 9)


@pytest.mark.parametrize("kind", VITS)
def test_a_refiner_that_changes_nothing_and_one_that_does(kind):
    model = vit(kind)
    before, state = read(model), {name: value.clone() for name, value in model.state_dict().items()}
    refinement = ar.refine_vit(model, layers=[0, 2], kappa=2)
    assert torch.equal(read(model), before) and [r.expanded for r in refinement.refiners] == [6, 6]
    refinement.refiners[1].set_weights(kernels=MEAN)
    assert not torch.allclose(read(model), before, atol=1e-4)
    refinement.remove()
    assert torch.equal(read(model), before) and model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_masked_autoencoders_are_refined_in_the_encoder_only():
    torch.manual_seed(0)
    sizes = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=16)
    sizes |= {f"decoder_{name}": value for name, value in sizes.items()}
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(image_size=12, patch_size=4, **sizes))
    assert ar.refine_vit(model).layers == (0, 1) and sum("refiner" in name for name in model.state_dict()) == 6


def test_what_is_a_decoder_is_told_by_its_layers_in_a_wrapped_model_too():
    sizes = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=16)
    sizes |= {f"decoder_{name}": value for name, value in sizes.items()}
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(image_size=12, patch_size=4, **sizes))
    assert ar.refine_vit(nn.DataParallel(model)).layers == (0, 1)
    assert ar.refine_vit(nn.ModuleDict({"decoder": vit()})).layers == (0, 1, 2)


def test_a_refinement_that_was_removed_leaves_the_next_one_alone():
    model = vit()
    old = ar.refine_vit(model)
    old.remove()
    new = ar.refine_vit(model, layers=[1])
    new.refiners[0].set_weights(kernels=MEAN)
    expected = read(model)
    with pytest.raises(ValueError, match="model must have its refiners, got one from which they were removed"):
        old.maps(PICTURES)
    old.remove()
    assert torch.equal(read(model), expected) and len(new.maps(PICTURES)) == 1
    both = copy.deepcopy((model, new))
    both[1].remove()
    assert not any("refiner" in name for name in both[0].state_dict()) and torch.equal(read(model), expected)


def test_toy_vit_is_reproduced_and_its_maps_are_smoothed():
    load = lambda how: transformers.ViTForImageClassification.from_pretrained(  # noqa: E731
        TOY_VIT, dtype=torch.float32, local_files_only=True, attn_implementation=how
    ).eval()
    pictures = torch.rand(2, 3, 64, 64, generator=seed()) * 2 - 1
    eager, fused = load("eager"), load("sdpa")
    plain = read(eager, pictures)
    refinement = ar.refine_vit(eager)
    assert torch.equal(read(eager, pictures), plain) and len(refinement.refiners) == 6
    ar.refine_vit(fused)
    torch.testing.assert_close(read(fused, pictures), plain, rtol=0, atol=1e-4)
    apart = [ar.head_similarity(maps).mean() for maps, _ in refinement.maps(pictures)]
    for refiner in refinement.refiners[4:]:
        refiner.set_weights(kernels=MEAN)
    smoothed = [ar.head_similarity(steps.refined).mean() for _, steps in refinement.maps(pictures)]
    torch.testing.assert_close(smoothed[:4], apart[:4])
    assert smoothed[4] > apart[4] and not torch.allclose(read(eager, pictures), plain, atol=1e-2)


def test_maps_of_the_model_are_the_refined_ones_and_the_refinement_has_both():
    model = vit()
    plain = model(PICTURES, output_attentions=True).attentions
    refinement = ar.refine_vit(model, layers=[1], refine="inverted_residual", kappa=3, start="random", generator=seed())
    shown, ((maps, steps),) = model(PICTURES, output_attentions=True).attentions, refinement.maps(PICTURES)
    assert torch.equal(shown[0], plain[0]) and torch.equal(maps, plain[1]) and torch.equal(shown[1], steps.refined) and not torch.equal(shown[2], plain[2])
    torch.testing.assert_close(refinement.refiners[0](maps), steps.refined)
    layer, seen = model.vit.layers[1], []
    handles = [layer.attention.register_forward_hook(lambda _, args, out: seen.append((args[0], out[0])))]
    read(model)
    handles[0].remove()
    values = layer.attention.v_proj(seen[0][0]).view(3, 10, 3, 4).transpose(1, 2)
    torch.testing.assert_close(layer.attention.o_proj((steps.refined @ values).transpose(1, 2).flatten(2)), seen[0][1])


def test_only_refiners_are_trained_in_a_frozen_model():
    model = vit().requires_grad_(False)
    refinement = ar.refine_vit(model, kappa=2)
    wanted = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(wanted) == 9 == len(list(refinement.refiners.parameters())) and all(".attention.refiner." in name for name in wanted)
    optimiser, labels = torch.optim.AdamW(refinement.refiners.parameters(), lr=0.03), torch.tensor([0, 1, 0])
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(PICTURES).logits, labels)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_copies_and_pickles_keep_their_refiners():
    model = vit()
    refinement = ar.refine_vit(model, layers=[1])
    refinement.refiners[0].set_weights(kernels=MEAN)
    expected = read(model)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    refinement.refiners[0].set_weights(kernels=torch.zeros(3, 3))
    for one in copies:
        assert torch.equal(read(one), expected) and not torch.allclose(read(model), expected)
    file.seek(0)
    model.load_state_dict(torch.load(file))
    assert torch.equal(read(model), expected)


def test_dropout_of_attention_falls_where_it_did():
    model = vit(attention_probs_dropout_prob=0.4).train()
    torch.manual_seed(1)
    expected = read(model)
    ar.refine_vit(model)
    torch.manual_seed(1)
    assert torch.equal(read(model), expected)


def test_models_on_the_meta_device_and_in_half_precision():
    with torch.device("meta"):
        model = transformers.ViTForImageClassification(transformers.ViTConfig())  # ViT-B/16
        count = ar.parameters(model)
        refinement = ar.refine_vit(model, kappa=3)
    assert len(refinement.refiners) == 12 and ar.parameters(model) - count == 12 * (432 + 324 + 432)
    assert model(torch.zeros(1, 3, 224, 224, device="meta")).logits.shape == (1, 2)
    half = vit().bfloat16()
    before = read(half)
    ar.refine_vit(half)
    assert torch.equal(read(half), before) and {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("call, text", [
    (lambda m: ar.refine_vit(nn.Linear(2, 2)), "model must have attention layers of ViT, DeiT, .* got a Linear with none"),
    (lambda m: ar.refine_vit(m, layers="last"), "layers must be 'all' or numbers of layers, got 'last'"),
    (lambda m: ar.refine_vit(m, layers=[3]), r"layers must be 'all' or different numbers of layers in 0..2, got \[3\]"),
    (lambda m: ar.refine_vit(m, layers=[1, 1]), "layers must be 'all' or different numbers"), (lambda m: ar.refine_vit(m, layers=[]), "layers must be"),
    (lambda m: (ar.refine_vit(m, layers=[1]), ar.refine_vit(m)), "model must have plain attention in the chosen layers, .* in layer 1"),
    (lambda m: (ar.refine_vit(m), m(PICTURES, attention_mask=torch.eye(3, 10))), "attention_mask must be None"),
    (lambda m: ar.refine_vit(m.train()).maps(PICTURES), "model must be in eval mode"),
    (lambda m: ar.refine_vit(m).maps(PICTURES[0]), r"pixel_values must be a tensor \(B, 3, S, S\), got shape \(3, 12, 12\)"),
    (lambda m: ar.refine_vit(m).maps(PICTURES[:0]), r"pixel_values must be a tensor \(B, 3, S, S\), got shape \(0, 3, 12, 12\)"),
    (lambda m: (r := ar.refine_vit(m), r.remove(), r.remove(), r.maps(PICTURES)), "model must have its refiners"),
    (lambda m: ar.refine_vit(m, over="grid", grid=(4, 4)) and m(PICTURES), "maps must have the 16 keys of grid 4 x 4 or more, got 10"),
])  # fmt: skip
def test_what_cannot_be_refined(call, text):
    model = vit()
    with pytest.raises(ValueError, match=text):
        call(model)


def test_a_refusal_leaves_the_model_as_it_was():
    model = vit()
    for wrong in (dict(kernel=2), dict(kappa=-1), dict(start="none"), dict(layers=[0, 7])):
        with pytest.raises(ValueError):
            ar.refine_vit(model, **wrong)
    assert not any("refiner" in name for name in model.state_dict()) and "forward" not in vars(model.vit.layers[0].attention)


# ------------------------------------------------------------------------------------------------------------------------- other devices


def test_everything_runs_where_the_numbers_lie():
    maps, values, kernel = softmax_maps(2, 3, 5, 5).float(), normal(2, 3, 5, 4).float(), MEAN
    model = RefinerViT(**OFFICIAL).eval()
    calls = {
        "refine": lambda m, v: ar.refine(m, np.eye(3), kernel, np.eye(3)).refined, "locally": lambda m, v: ar.attend_locally(m, v, kernel),
        "grid": lambda m, v: ar.attend_locally(m, v, kernel, over="grid", grid=(2, 2)), "heads": lambda m, v: ar.head_similarity(m),
        "layers": lambda m, v: ar.similarity_by_layer([m, 2 * m], of="neighbours"), "evolution": lambda m, v: ar.feature_evolution([m[0], m[1]]).cka,
    }  # fmt: skip
    expected = {name: call(maps, values) for name, call in calls.items()}
    logits = model(PICTURES)
    with Accelerator():
        found = {name: call(maps.to(DEVICE), values.to(DEVICE)) for name, call in calls.items()}
        far = copy.deepcopy(model).to(DEVICE)(PICTURES.to(DEVICE))
    for name in calls:
        assert found[name].device == DEVICE
        torch.testing.assert_close(near(found[name]), expected[name])
    torch.testing.assert_close(near(far), logits)
