"""Every public function of fully attentional networks with odd and wrong inputs, one argument at a time."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from helpers.methods import fully_attentional as fan
from tests.inputs.harness import SAME, WRONG, Kind, Odd, Thing, Trial, array, check, choice, coverage, fixed, flag, function, generator, integer, real, text

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
QUERY, KEY = (RNG.normal(size=(2, 2, 5, 3)).astype(np.float32) for _ in range(2))
CHANNELS = RNG.normal(size=(2, 5, 4)).astype(np.float32)
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
FEATURES, POINTS = RNG.normal(size=(7, 3)), RNG.normal(size=(9, 2))
BLOCKS = np.kron(np.eye(3), np.ones((3, 3)))
MAPS = RNG.random((2, 4, 4)).astype(np.float32)
LABELS, MASKS = np.array([0, 0, 1, 2, 2, 1]), np.array([1, 1, 1, 0, 0, 0])
ASSIGNED = RNG.random((9, 3)) + 0.1
STARTS, COVARIANCE = POINTS[:3], np.array([[1.5, 0.4], [0.4, 0.8]])
SIZES = dict(image_size=8, patch_size=4, width=8, depth=1, heads=2, classes=3, class_blocks=1)


def network(**changes):
    torch.manual_seed(0)
    return fan.FAN(**SIZES | changes).eval()


def said(**changes):
    return network(**changes)(torch.zeros(1, 3, 8, 8))


def block(kind, **options):
    torch.manual_seed(0)
    return kind(4, 2, **options).eval()


def grid(value):
    wrong = [(3, 3), (2, 3, 1), (6,), 6, "23", None, (2.0, 3.0), ("2", "3"), (-2, -3), (0, 6), Thing(), {2: 3}, (6, None)]
    same = [list(value), np.array(value), torch.Size(value)]
    odd = [Odd(w, repr(w), WRONG) for w in wrong] + [Odd(s, f"a {type(s).__name__}", SAME) for s in same]
    return Kind(lambda: value, lambda: st.sampled_from(odd))


def states():
    wrong = [None, 3, "text", [1], {}, {"norm.weight": 3}, {3: torch.ones(2)}, {"norms.weight": torch.ones(2)}, {"blocks.x.norm1.weight": torch.ones(2)}]
    return Kind(lambda: {"norm.weight": torch.ones(2)}, lambda: st.sampled_from([Odd(w, repr(w), WRONG) for w in wrong]))


def absent(**arguments):
    """What `load` says of files that are not there, as a result: the sentence."""
    try:
        return fan.load(**arguments)
    except FileNotFoundError as error:
        return str(error)


pictures = array(IMAGES, free=(0,), grow=(0,), tolerance=1e-4)
rows = array(TOKENS, finite=False, free=(0, 1), grow=(0, 1), torch_only=True, tolerance=1e-4)
tokens = array(TOKENS, finite=False, free=(0,), grow=(0,), torch_only=True, tolerance=1e-4)
points, covariance = array(POINTS, free=(0,), grow=(0,)), Kind(lambda: COVARIANCE, array(COVARIANCE, wrong=(-np.eye(2), np.zeros((2, 2)))).odd)
maybe = Kind(covariance.make, lambda: covariance.odd().filter(lambda odd: odd.value is not None))
one = Kind(lambda: 1.5, lambda: real(1.5).odd().filter(lambda odd: "of two" not in odd.words))  # two are one a head
TRIALS = [
    Trial(fan.channel_gate, query=array(QUERY), key=array(KEY), temperature=one, follows="query"),
    Trial(fan.channel_gate, trial_id="channel_gate, a temperature a head", query=array(QUERY), key=array(KEY), temperature=array(np.array([0.5, 2.0])),
          follows="query"),
    Trial(fan.channel_attention, query=array(CHANNELS), key=array(CHANNELS[::-1].copy()), follows="query"),
    Trial(fan.fourier_features, height=integer(2, low=1), width=integer(3, low=1), hidden=integer(4, low=2, wrong=(3, 5)),
          temperature=real(100.0, low=0, above=True)),
    Trial(lambda x, **options: block(fan.TokenMixing, **options)(x), x=rows, public="TokenMixing"),
    Trial(lambda x: block(fan.TokenMixing).attention(x), x=rows, public="TokenMixing.attention"),
    Trial(lambda width, heads: fan.TokenMixing(width, heads).query.weight.shape, width=integer(8, low=1, wrong=(7,)), heads=integer(2, low=1, wrong=(3,)),
          public="TokenMixing", trial_id="the sizes of TokenMixing"),
    Trial(lambda x, grid, **options: block(fan.ChannelBlock, **options)(x, grid), x=tokens, grid=grid((2, 3)), channel=choice("eca"), gate=choice("mean"),
          value=choice("depthwise"), mlp_ratio=real(2.0, low=0, above=True), batch_norm=flag(True), public="ChannelBlock"),
    Trial(lambda x, grid: block(fan.ChannelBlock).gate(x, grid), x=tokens, grid=grid((3, 2)), public="ChannelBlock.gate"),
    Trial(said, **{name: integer(value, low=1) for name, value in SIZES.items() if name not in ("image_size", "patch_size", "width")},
          image_size=fixed(8), public="FAN", slow=0.4),
    Trial(said, channel=choice("se"), gate=choice("picture"), value=choice("plain"), class_residual=choice("plain"), batch_norm=flag(False),
          mlp_ratio=real(2.0, low=0, above=True), eta=real(0.5), drop_path=real(0.5, low=0, high=0.99), public="FAN", trial_id="FAN's parts", slow=0.4),
    Trial(lambda **sizes: tuple(network(**sizes).stem.layers[-1][0].weight.shape), image_size=integer(8, low=1, wrong=(9,)),
          patch_size=integer(4, low=1, wrong=(3,)), width=integer(8, low=1, wrong=(9,)), public="FAN", trial_id="FAN's sizes", slow=0.4),
    Trial(lambda images: network()(images), images=pictures, follows="images", public="FAN.forward", slow=0.4),
    Trial(lambda images, every: network().features(images, every=every), images=pictures, every=flag(True), follows="images", public="FAN.features", slow=0.4),
    Trial(lambda images: network().attention_maps(images), images=pictures, follows="images", public="FAN.attention_maps", slow=0.4),
    Trial(lambda images: network().gates(images), images=pictures, follows="images", public="FAN.gates", slow=0.4),
    Trial(lambda images: network().with_mean_gates(images).blocks[0].channel.mean_gate, images=pictures, public="FAN.with_mean_gates", slow=0.4),
    Trial(fan.from_official, state=states()),
    Trial(absent, file=text("nowhere.tar"), name=choice("FAN-T-ViT"), ema=flag(True), public="load"),
    Trial(fan.token_affinity, features=array(FEATURES, free=(0, 1), grow=(0, 1), broadcast=True), follows="features"),
    Trial(fan.attention_affinity, attention=array(MAPS, low=0, free=(0,), grow=(0,), broadcast=True), follows="attention"),
    Trial(fan.group_tokens, affinity=array(BLOCKS, low=0), groups=integer(3, low=2, high=8), seed=integer(1, low=0, high=2**32 - 1),
          follows="affinity", slow=0.4),
    Trial(fan.paint, labels=array(LABELS, broadcast=True), grid=grid((2, 3)), patch_size=integer(2, low=1), follows="labels"),
    Trial(fan.group_scores, labels=array(LABELS), masks=array(MASKS)),
    Trial(fan.significant_eigenvalues, features=array(FEATURES, free=(0, 1), grow=(0, 1), broadcast=True), threshold=real(0.1, low=0, high=1, above=True),
          follows="features"),
    Trial(fan.noise_decay, features=function(lambda x: [x, 2 * x.flatten(1)]), images=array(IMAGES, free=(0, 1, 2, 3), grow=(0, 1, 2, 3), broadcast=True),
          sigma=real(0.5, low=0, above=True), generator=generator(), follows="images"),
    Trial(fan.soft_assignment, points=points, centres=array(STARTS, free=(0,), grow=(0,)), covariance=maybe, over=choice("points"), norms=flag(True),
          follows="points"),
    Trial(fan.updated_centres, points=array(POINTS), assignment=array(ASSIGNED, low=0, free=(1,), grow=(1,)), form=choice("printed"), covariance=maybe,
          follows="points"),
    Trial(fan.soft_clusters, points=points, centres=array(STARTS, free=(0,), grow=(0,)), covariance=maybe, over=choice("centres"), norms=flag(True),
          steps=integer(2, low=0), follows="points"),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(fan, TRIALS) == set()


def test_nothing_is_drawn_before_a_refusal():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for wrong in (dict(channel="gelu"), dict(channel="mlp", gate="mean"), dict(batch_norm=1), dict(class_residual="none"), dict(eta=np.nan), dict(heads=3)):
        with pytest.raises((TypeError, ValueError)):
            fan.FAN(**wrong)
    assert torch.equal(torch.get_rng_state(), state)
    random = torch.Generator().manual_seed(0)
    before = random.get_state()
    for wrong in (dict(images=np.full((2, 3), np.nan)), dict(sigma=0), dict(features=3)):
        with pytest.raises((TypeError, ValueError)):
            fan.noise_decay(**{"features": lambda x: [x], "images": IMAGES, "generator": random} | wrong)
    assert torch.equal(random.get_state(), before)
