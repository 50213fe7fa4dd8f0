"""Odd and wrong inputs for every public function of sharpness_aware_free."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from helpers.methods import sharpness_aware_free as saf
from tests.inputs.harness import (
    EITHER,
    SAME,
    WRONG,
    Kind,
    Odd,
    Thing,
    Trial,
    array,
    check,
    choice,
    coverage,
    fixed,
    flag,
    generator,
    instance,
    integer,
    optional,
    real,
)

RNG = np.random.default_rng(0)
IMAGES, LABELS, ROWS = RNG.normal(size=(6, 4)).astype(np.float32), np.array([0, 2, 1, 1, 0, 2]), np.array([5, 0, 3, 2, 1, 4])
NOW, PAST = RNG.normal(size=(2, 5, 3)).astype(np.float32)
RADII = np.array([0.1, 0.5], dtype=np.float32)
UNSAID = Thing()


class Floats(nn.Module):
    """Takes whole numbers as well, as models of words do: what images are is the model's affair."""

    def forward(self, x):
        return x.float()


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(Floats(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))


def others():
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)


def store(samples=6, classes=3, **options):
    return saf.OutputStore(samples, classes, **dict(lag=1) | options)


def stepped(name, images=IMAGES, labels=LABELS, indices=ROWS, epoch=1, network=UNSAID, optimiser=UNSAID, **options):
    """What three steps see, the first in epoch 0, and the weights afterwards."""
    network = model() if network is UNSAID else network
    options |= dict(store=store()) if name == "SAF" and "store" not in options else {}
    options |= dict(generator=torch.Generator().manual_seed(0)) if name == "ESAM" and "generator" not in options else {}
    options |= dict(start=0) if name in ("SAF", "MESA", "uniform", "frozen") and "start" not in options else {}
    learning = [*network.parameters()] if isinstance(network, nn.Module) else [torch.ones(2, requires_grad=True)]
    optimiser = torch.optim.SGD(learning or [torch.ones(1)], lr=0.1) if optimiser is UNSAID else optimiser
    method = saf.METHODS[name](network, optimiser, **options)
    seen = [method.step((images, labels, indices), when)._asdict() for when in (0, epoch, epoch)]
    return seen, [p.detach().clone() for p in network.parameters()]


def written(samples=6, classes=3, lag=1, dtype=torch.float32, indices=ROWS, logits=UNSAID, epoch=2, missing="refuse"):
    kept = saf.OutputStore(samples, classes, lag=lag, dtype=dtype)
    kept.write(indices, np.tile(NOW[:1], (6, 1)) if logits is UNSAID else logits, epoch)
    return kept.read(indices, epoch + lag, missing=missing), kept.logits


def read(epoch, missing):
    kept = store()
    kept.write(ROWS, np.tile(NOW[:1], (6, 1)), 0)
    return kept.read(ROWS, epoch, missing=missing)


def item(dataset):
    return saf.IndexedDataset(dataset)[1]


def loss_value(network=UNSAID, images=IMAGES, labels=LABELS, **options):
    return saf.loss_on(model() if network is UNSAID else network, (images, labels), **options)().detach()


def bowl(parameters):
    return lambda: sum((p**2).sum() for p in (parameters.parameters() if isinstance(parameters, nn.Module) else parameters.values()))


def measured(name, parameters=UNSAID, rho=0.1, **options):
    known = model() if parameters is UNSAID else parameters
    loss = bowl(known) if isinstance(known, nn.Module) or (isinstance(known, dict) and known) else lambda: torch.ones(())
    return getattr(saf, name)(loss, known, rho, **options)


def eigenvalue(parameters=UNSAID, **options):
    known = model() if parameters is UNSAID else parameters
    return saf.hessian_eigenvalue(bowl(known) if isinstance(known, (nn.Module, dict)) else lambda: torch.ones(()), known, **options)


def plane(first=UNSAID, second=UNSAID, a=RADII, b=RADII):
    network = model()
    ways = [saf.filter_normalised(network, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    return saf.landscape(bowl(network), network, ways[0] if first is UNSAID else first, ways[1] if second is UNSAID else second, a, b)


def direction(**changes):
    return {name: torch.ones_like(p) for name, p in model().named_parameters()} | changes


def distances():
    """One number or several."""
    bad = [None, "0.1", float("nan"), float("inf"), 1j, Thing(), {}, [], [0.1, float("nan")], [[0.1]], ["a"], [None], True, [True], len, {0.1}]
    odd = [Odd(one, repr(one)[:40], WRONG) for one in bad] + [Odd(one, f"{type(one)}", EITHER) for one in (0, 1, -0.1, [1, 2], np.array(0.1), RADII)]
    return Kind(lambda: 0.1, lambda: st.sampled_from([*odd, Odd(np.float64(0.1), "numpy float64", SAME), Odd(np.float32(0.1), "numpy float32", SAME)]))


DTYPE = Kind(lambda: torch.float32, lambda: st.sampled_from([
    *[Odd(v, repr(v), WRONG) for v in ("float32", np.float32, float, None, 32, torch.int64, torch.float64, torch.complex64)],
    *[Odd(v, repr(v), EITHER) for v in (torch.float16, torch.bfloat16)],
]))  # fmt: skip
MODEL = instance(model)
GROWING = torch.ones(2, requires_grad=True)
PARAMETERS = instance(model, wrong=({"a": 1}, {1: GROWING}, {"a": torch.ones(2)}, {"a": GROWING * 2}, nn.ReLU()))
OPTIMISER = instance(lambda: UNSAID, wrong=(others(),))
BATCH = dict(
    images=array(IMAGES, free=(0, 1), grow=(1,), finite=False), labels=array(LABELS, low=0, high=2, either=(np.eye(3)[LABELS],)),
    indices=array(ROWS, low=0), epoch=integer(1, low=0),
)  # fmt: skip
WORDS = {"images": ("labels",), "network": ("model",)}
PULLED = dict(coefficient=real(0.3, low=0), temperature=real(5.0, low=0, above=True), start=integer(0, low=-1), end=optional(integer(4, low=2)),
              scale_tau2=flag(True), label_smoothing=real(0.1, low=0, high=1))  # fmt: skip
SMOOTH = dict(label_smoothing=real(0.1, low=0, high=1))
RHO = dict(rho=real(0.1, low=0))
TRIALS = [
    Trial(saf.trajectory_loss, now=array(NOW, free=(0, 1)), past=array(PAST), temperature=real(5.0, low=0, above=True), scale_tau2=flag(True),
          reduction=choice("none", either=("mean",)), names={"now": ("past",)}, follows="now"),
    Trial(saf.store_bytes, samples=integer(6, low=1), classes=integer(3, low=1), lag=integer(3, low=1), dtype=DTYPE),
    Trial(written, public="OutputStore", samples=integer(6, low=1), classes=integer(3, low=1), lag=integer(1, low=1), dtype=DTYPE,
          indices=array(ROWS, low=0, high=5), logits=array(RNG.normal(size=(6, 3)).astype(np.float32)), epoch=integer(2, low=0), missing=choice("refuse"),
          names={"samples": ("indices",), "classes": ("logits",), "indices": ("logits",)}),
    Trial(read, public="OutputStore.read", epoch=integer(1, low=0, either=(5, 0)), missing=choice("skip", either=("refuse",)), names={"epoch": ("indices",)}),
    Trial(item, public="IndexedDataset", dataset=instance(lambda: [(1, 2), (3, 4)], wrong=((5, 6), {0: (1, 2), 1: (3, 4)}, "abc"))),
    Trial(stepped, trial_id="a batch, plain", name=fixed("plain"), public="Plain", names=WORDS, slow=0.5,
          network=MODEL, optimiser=OPTIMISER, **BATCH, **SMOOTH),
    Trial(stepped, trial_id="a batch, SAF", name=fixed("SAF"), public="SAF", names=WORDS | {"start": ("indices",)}, slow=0.5, missing=choice("skip"),
          store=instance(store, wrong=(nn.Linear(2, 2), 3)), **BATCH | dict(indices=array(ROWS, low=0, high=5)), **PULLED),
    Trial(stepped, public="MESA", name=fixed("MESA"), decay=real(0.9, low=0, high=1), slow=0.3, **PULLED),
    Trial(stepped, public="Uniform", name=fixed("uniform"), slow=0.3, **PULLED),
    Trial(stepped, public="Frozen", name=fixed("frozen"), slow=0.3, teacher=optional(instance(lambda: model(1), wrong=(nn.Linear(4, 2),))), **PULLED),
    Trial(stepped, trial_id="a batch, SAM", name=fixed("SAM"), public="SAM", names=WORDS, slow=0.3, network=MODEL, **BATCH, **RHO, **SMOOTH),
    Trial(stepped, public="ASAM", name=fixed("ASAM"), slow=0.3, eta=real(0.01, low=0), **RHO, **SMOOTH),
    Trial(stepped, public="ESAM", name=fixed("ESAM"), slow=0.3, beta=real(0.6, low=0, high=1, above=True), gamma=real(0.5, low=0, high=1, above=True),
          generator=generator(), **RHO, **SMOOTH),
    Trial(stepped, public="LookSAM", name=fixed("LookSAM"), slow=0.3, every=integer(2, low=1), alpha=real(0.7, low=0), **RHO, **SMOOTH),
    Trial(saf.select_sharp, rises=array(NOW[:, 0], free=(0,)), gamma=real(0.5, low=0, high=1, above=True), follows="rises"),
    Trial(loss_value, public="loss_on", network=MODEL, images=BATCH["images"], labels=BATCH["labels"], mode=choice("train", either=("eval",)),
          names=WORDS, **SMOOTH),
    Trial(measured, name=fixed("sam_sharpness"), public="sam_sharpness", parameters=PARAMETERS, rho=distances()),
    Trial(measured, name=fixed("adaptive_sharpness"), public="adaptive_sharpness", parameters=PARAMETERS, rho=distances(), eta=real(0.01, low=0)),
    Trial(measured, name=fixed("random_sharpness"), public="random_sharpness", parameters=PARAMETERS, rho=distances(), directions=integer(3, low=1),
          each=flag(True), generator=generator()),
    Trial(measured, name=fixed("sam_sharpness"), public="sam_sharpness", trial_id="several distances", follows="rho", rho=array(RADII, free=(0,))),
    Trial(eigenvalue, public="hessian_eigenvalue", parameters=PARAMETERS, method=choice("power", either=("lanczos",)), iterations=integer(5, low=1),
          tolerance=real(0.01, low=0), generator=generator()),
    Trial(saf.filter_normalised, parameters=PARAMETERS, generator=generator()),
    Trial(plane, public="landscape", first=instance(direction, wrong=({"1.weight": torch.ones(3, 4)}, direction(more=1), direction(**{"3.bias": None}))),
          second=instance(direction), a=array(RADII, free=(0,)), b=array(RADII, free=(0,)), follows="a"),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


@pytest.mark.parametrize("loss", [None, 3, "text", torch.ones(()), lambda: None, lambda: "a", lambda: torch.ones(2), lambda: torch.tensor(float("nan"))])
def test_losses_that_are_none(loss):
    network = model()
    for call in (
        lambda: saf.sam_sharpness(loss, network, 0.1), lambda: saf.adaptive_sharpness(loss, network, 0.1), lambda: saf.random_sharpness(loss, network, 0.1),
        lambda: saf.hessian_eigenvalue(loss, network), lambda: saf.landscape(loss, network, direction(), direction(), [0.0], [0.0]),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match="^loss must"):
            call()


@pytest.mark.parametrize("batch", [None, 3, "text", {}, (), (1,), (1, 2, 3, 4), torch.ones(3), iter(()), {"images": IMAGES}, Thing()])
def test_batches_that_are_none(batch):
    for name in saf.METHODS:
        method = saf.METHODS[name](model_ := model(), torch.optim.SGD(model_.parameters()), **(dict(store=store()) if name == "SAF" else {}))
        with pytest.raises((ValueError, TypeError), match="^batch must"):
            method.step(batch, 0)
    with pytest.raises((ValueError, TypeError), match="^batch must"):
        saf.loss_on(model(), batch)


def test_every_public_function_has_a_trial():
    assert coverage(saf, TRIALS) == set()
