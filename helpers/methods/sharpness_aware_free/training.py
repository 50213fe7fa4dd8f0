"""Nine ways to train, behind one `step`: plain, with a pull towards other outputs (SAF, MESA and their controls), and by way of nearby weights (SAM's kin).

Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", NeurIPS 2022, arXiv 2205.14083. A method is made of a model and its optimiser; `step(batch,
epoch)` does all of a training step, forward, backward and the optimiser's. Where the paper's text and the official code differ, this follows the code.
"""

import abc
import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ._arguments import _flag, _generator, _got, _instance, _integer, _like, _number, _numbers, _option, _rows, _tensor
from ._nearby import TINY, adaptive_scales, ascent, moved, norm, orthogonal, still_statistics, undone
from .outputs import OutputStore, _pull

__all__ = ["ASAM", "ESAM", "METHODS", "MESA", "SAF", "SAM", "Frozen", "LookSAM", "Plain", "Step", "Uniform", "select_sharp"]


class Step(NamedTuple):
    """What a step saw: numbers without gradients."""

    loss: Tensor  # (): what the optimiser's gradient is of, at nearby weights for SAM and its kin (of LookSAM between two climbs: at the weights)
    cross_entropy: Tensor  # (): mean of the batch at the weights before the step
    term: Tensor | None  # (): the pull before its coefficient, None in epochs without one and for methods that have none
    logits: Tensor  # (B, C), of the first pass


# ------------------------------------------------------------------------------------------------------------------- models and batches


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """(B, C): what the model gives, or the .logits of it."""
    given = model(images)
    logits = getattr(given, "logits", given)
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must give logits (B, C), or something with .logits, got {_got(given)}")
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"model must give logits ({len(images)}, C), got shape {tuple(logits.shape)}")
    return logits


def _images(value: Any, model: nn.Module) -> Tensor:
    """What a batch shows, where the model lies; floating-point numbers in the precision of its weights."""
    images = _tensor("images", value, "numbers (B, ...)", "fi")
    if images.ndim < 2 or not images.numel():
        raise ValueError(f"images must be numbers (B, ...) and not empty, got shape {tuple(images.shape)}")
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return images
    return images.to(like.device, like.dtype if images.is_floating_point() else None)


def _labels(value: Any, count: int) -> Tensor:
    """Classes (B,), or shares of the classes (B, C) whose rows sum to 1."""
    shares = _tensor("labels", value, f"classes ({count},) or shares of the classes ({count}, C)", "fi")
    if not shares.is_floating_point():
        return _rows("labels", shares, count=count)
    shares = _numbers("labels", shares, (count, None), f"({count}, C), or classes ({count},)")
    if shares.min() < 0 or (shares.sum(1) - 1).abs().max() > 1e-2:
        raise ValueError("labels must be classes, or shares of the classes in [0, 1] that sum to 1 for each sample, got others")
    return shares


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """In float32 at least."""
    labels, classes = labels.to(logits.device), logits.shape[1]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.ndim == 2 and labels.shape[1] != classes:
        raise ValueError(f"labels must have the {classes} classes of the model's logits, got shape {tuple(labels.shape)}")
    if labels.ndim == 1 and labels.max() >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, the classes of the model's logits, got {int(labels.max())}; is it (images, labels, indices)?")
    return F.cross_entropy(wide, labels.to(wide.dtype) if labels.ndim == 2 else labels, label_smoothing=smoothing, reduction=reduction)


# -------------------------------------------------------------------------------------------------------------------------------- plain


class Plain:
    """Cross-entropy and the optimiser, as ever; and the face of all methods.

    model: any module that gives logits (B, C), or something with .logits as transformers' do; its mode (train or eval) is the caller's. optimiser: of some
    of its parameters, any of torch.optim that steps without a closure. label_smoothing: in [0, 1]; all methods have it, the control for what is no flatness.
    """

    _samples: int | None = None  # how many indices there are, where that is known

    def __init__(self, model: nn.Module, optimiser: Optimizer, *, label_smoothing: float = 0.0):
        self.model = _instance("model", model, nn.Module, "a torch.nn.Module")
        self.optimiser = _instance("optimiser", optimiser, Optimizer, "a torch.optim.Optimizer")
        self.label_smoothing = _number("label_smoothing", label_smoothing, 0, 1)
        if isinstance(optimiser, torch.optim.LBFGS):
            raise ValueError("optimiser must be one that steps without a closure, got LBFGS")
        self._learners()

    @torch.inference_mode(False)
    @torch.enable_grad()
    def step(self, batch, epoch: int) -> Step:
        """One training step. batch: (images (B, ...), labels, indices (B,)), where only `SAF` needs indices, which others may lack; labels: classes (B,), or
        shares of the classes (B, C). epoch: from 0 on. Raises ValueError, and leaves weights and buffers (running statistics) as they were, where the loss
        or its gradient is not finite."""
        images, labels, indices = self._batch(batch)
        epoch = _integer("epoch", epoch, 0)
        self._learners()
        with undone(self.model):
            seen = self._step(images, labels, indices, epoch)
        torch.clear_autocast_cache()  # the weights have moved
        return seen

    def _step(self, images: Tensor, labels: Tensor, indices: Tensor | None, epoch: int) -> Step:
        logits = _logits(self.model, images)
        loss = self._entropy(logits, labels)
        self._backward(loss)
        self.optimiser.step()
        return Step(loss.detach(), loss.detach(), None, logits.detach())

    def state_dict(self) -> dict[str, Any]:
        """What a method keeps from step to step, besides the model and the optimiser; `load_state_dict` takes it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = self.state_dict()
        if not isinstance(state, dict) or state.keys() != own.keys():
            raise ValueError(f"state must be a state_dict of {type(self).__name__}, with {', '.join(own) or 'nothing in it'}, got {_got(state)}")
        self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        pass

    def _parameters(self) -> list[Tensor]:
        """Those of the optimiser that learn."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"] if parameter.requires_grad]

    def _learners(self) -> None:
        own = set(map(id, self.model.parameters()))
        if not any(id(parameter) in own for parameter in self._parameters()):
            kind = type(self.optimiser).__name__
            raise ValueError(f"optimiser must be made of parameters of the model, got a {kind} with none of them that learns")

    def _batch(self, batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        if not isinstance(batch, (tuple, list)):
            raise TypeError(f"batch must be (images, labels, indices), got {_got(batch)}")
        if len(batch) not in (2, 3):
            raise ValueError(f"batch must be (images, labels, indices), got {len(batch)} parts")
        images = _images(batch[0], self.model).detach()  # a batch that asks for a gradient gets none of a step
        labels = _labels(batch[1], len(images)).detach()
        return images, labels, _rows("indices", batch[2], self._samples, len(images)) if len(batch) == 3 else None

    def _entropy(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return _cross_entropy(logits, labels, self.label_smoothing, reduction)

    def _finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of the batch must be finite, got {loss.item()}: look for NaN in images and weights, or learn more slowly")
        if not loss.requires_grad:
            raise ValueError("model must give logits that depend on a parameter that learns, got some without a gradient")

    def _backward(self, loss: Tensor) -> None:
        """The gradient of a loss, in place of what was there."""
        self._finite(loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self._parameters() if p.grad is not None and p.grad.layout == torch.strided]
        largest = get_total_norm(gradients, norm_type=math.inf)
        if not torch.isfinite(largest):
            raise ValueError(f"the gradient of the batch must be finite, got {largest.item()}: look for infinities in images, or learn more slowly")


# --------------------------------------------------------------------------------------------------------- a pull towards other outputs


class _Pulled(Plain, abc.ABC):
    """Cross-entropy + coefficient * `trajectory_loss`, in epochs start < epoch < end."""

    def __init__(
        self, model: nn.Module, optimiser: Optimizer, *, coefficient: float = 0.3, temperature: float = 5.0, start: int = 5, end: int | None = None,
        scale_tau2: bool = True, label_smoothing: float = 0.0,
    ):  # fmt: skip
        super().__init__(model, optimiser, label_smoothing=label_smoothing)
        self.coefficient, self.temperature = _number("coefficient", coefficient, 0), _number("temperature", temperature, above=0)
        self.scale_tau2, self.start = _flag("scale_tau2", scale_tau2), _integer("start", start, -1)
        self.end = None if end is None else _integer("end", end, self.start + 2)  # nearer ones leave no epoch between

    def active(self, epoch: int) -> bool:
        """Whether an epoch has the term: start < epoch < end, both strict."""
        return self.start < _integer("epoch", epoch, 0) and (self.end is None or epoch < self.end)

    def _step(self, images, labels, indices, epoch):
        logits = _logits(self.model, images)
        entropy = self._entropy(logits, labels)
        self._fit(logits)
        term, loss = None, entropy
        if self.active(epoch):
            past, found = self._past(images, indices, logits, epoch)
            each = _pull(logits, past.to(logits.device), self.temperature, self.scale_tau2)
            term = (each if found is None else each * found.to(each.device)).mean()
            loss = entropy + self.coefficient * term if self.coefficient else entropy
        self._backward(loss)
        self._keep(indices, logits, epoch)
        self.optimiser.step()
        return Step(loss.detach(), entropy.detach(), None if term is None else term.detach(), logits.detach())

    def _fit(self, logits: Tensor) -> None:
        """Refuses logits that cannot be compared with earlier ones."""

    def _keep(self, indices: Tensor | None, logits: Tensor, epoch: int) -> None:
        """In every epoch, once nothing of the batch is refused; `_past` never reads the slot of the epoch itself."""

    @abc.abstractmethod
    def _past(self, images: Tensor, indices: Tensor | None, logits: Tensor, epoch: int) -> tuple[Tensor, Tensor | None]:
        """Where today's logits are pulled, (B, C), and which of them, (B,) booleans or None for all."""


class SAF(_Pulled):
    """Each sample's output is pulled towards its own of some epochs ago (paper, algorithm 1).

    store: an OutputStore for the loader's indices and the model's classes, to which outputs go from epoch 0 on; its `lag` is E~, start at least lag - 1.
    coefficient: lambda; temperature: tau; start, end: there is a term for start < epoch < end, so first in epoch start + 1; end=None: to the last.
    missing: a sample without an output of just `lag` epochs ago is refused ("refuse"), or not pulled ("skip"; the term is divided by B all the same).
    Batches need indices. Where images are mixed (soft labels) the kept output is that of another mixture, of which a warning tells once.
    """

    def __init__(self, model: nn.Module, optimiser: Optimizer, store: OutputStore, *, start: int = 5, missing: str = "refuse", **options):
        super().__init__(model, optimiser, start=start, **options)
        self.store, self.missing = _instance("store", store, OutputStore, "an OutputStore"), _option("missing", missing, ("refuse", "skip"))
        if self.start + 1 < store.lag:
            raise ValueError(f"start must be at least {store.lag - 1}, the store's lag - 1, for outputs of epoch 0 to be there, got {start}")
        self._samples, self._warned = store.samples, False

    def state_dict(self):
        return {"store": self.store.state_dict()}

    def _restore(self, state):
        self.store.load_state_dict(state["store"])

    def _batch(self, batch):
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            raise ValueError("batch must be (images, labels, indices), got no indices: make the loader of IndexedDataset(dataset), which adds them")
        images, labels, indices = super()._batch(batch)
        if labels.ndim == 2 and not self._warned:
            warnings.warn("soft labels: where images are mixed, the output that is kept is that of another mixture; MESA's is of today's", stacklevel=3)
            self._warned = True
        return images, labels, indices

    def _fit(self, logits):
        if logits.shape[1] != self.store.classes:
            raise ValueError(f"model must give logits of the {self.store.classes} classes of the store, got {logits.shape[1]}")

    def _keep(self, indices, logits, epoch):
        self.store._put(indices, logits, epoch)

    def _past(self, images, indices, logits, epoch):
        past, found = self.store._get(indices, epoch, self.missing)
        return past, found if self.missing == "skip" else None


class MESA(_Pulled):
    """Outputs are pulled towards those of an exponential moving average of the model, on the same images.

    decay: beta in [0, 1]; v <- beta v + (1 - beta) theta after every step, from the first on, and so for floating-point buffers; whole numbers are copied.
    The average begins as the model is and looks back over some 1 / (1 - beta) steps: a training of fewer is pulled to where it began. It is in eval mode,
    and in float32 where the model is in half precision, which would round its steps away. Other options as in `SAF`.
    """

    def __init__(self, model: nn.Module, optimiser: Optimizer, *, decay: float = 0.9998, coefficient: float = 0.8, **options):
        super().__init__(model, optimiser, coefficient=coefficient, **options)
        self.average, self.decay = _still(model), _number("decay", decay, 0, 1)
        for v in [*self.average.parameters(), *self.average.buffers()]:
            if v.is_floating_point():
                v.data = v.data.to(torch.promote_types(v.dtype, torch.float32))

    def _step(self, images, labels, indices, epoch):
        seen = super()._step(images, labels, indices, epoch)
        self._follow()
        return seen

    @torch.no_grad()
    def _follow(self) -> None:
        """What torch's AveragedModel does, which copies at its first update, and of a whole number v makes beta v + (1 - beta) v, cut: at times v - 1."""
        averages, values = ([*model.parameters(), *model.buffers()] for model in (self.average, self.model))
        pairs = [(v, theta.to(v.dtype)) for v, theta in zip(averages, values, strict=True) if v.is_floating_point()]
        get_ema_multi_avg_fn(self.decay)(*map(list, zip(*pairs)), None)
        for v, theta in zip(averages, values):
            if not v.is_floating_point():
                v.copy_(theta)

    def state_dict(self):
        return {"average": self.average.state_dict()}

    def _restore(self, state):
        self.average.load_state_dict(state["average"])

    @torch.no_grad()
    def _past(self, images, indices, logits, epoch):
        return _logits(self.average, _images(images, self.average)), None


class Uniform(_Pulled):
    """Control: outputs are pulled towards equal shares for all classes, which is what SAF does with a store of zeros. Options as in `SAF`."""

    def _past(self, images, indices, logits, epoch):
        return torch.zeros_like(logits), None


class Frozen(_Pulled):
    """Control: outputs are pulled towards those of one earlier model, on the same images.

    teacher: that model, of which a copy is kept, in eval mode; None copies the model where the first epoch with a term begins. Other options as in `SAF`.
    """

    def __init__(self, model: nn.Module, optimiser: Optimizer, *, teacher: nn.Module | None = None, **options):
        super().__init__(model, optimiser, **options)
        self.teacher = None
        if teacher is not None:
            self.teacher = _still(_instance("teacher", teacher, nn.Module, "a torch.nn.Module or None")).to(next(model.parameters()).device)

    def state_dict(self):
        return {"teacher": None if self.teacher is None else self.teacher.state_dict()}

    def _restore(self, state):
        if state["teacher"] is None:  # of before its first epoch with a term
            self.teacher = None
        else:
            self.teacher = _still(self.model) if self.teacher is None else self.teacher
            self.teacher.load_state_dict(state["teacher"])

    def _step(self, images, labels, indices, epoch):
        if self.teacher is None and self.active(epoch):
            self.teacher = _still(self.model)
        return super()._step(images, labels, indices, epoch)

    @torch.no_grad()
    def _past(self, images, indices, logits, epoch):
        past = _logits(self.teacher, images)
        if past.shape != logits.shape:
            raise ValueError(f"teacher must give logits of the model's {logits.shape[1]} classes, got {past.shape[1]}")
        return past, None


def _still(model: nn.Module) -> nn.Module:
    """A copy that does not learn, in eval mode."""
    return copy.deepcopy(model).requires_grad_(False).eval()


# ------------------------------------------------------------------------------------------------------------- by way of nearby weights


class SAM(Plain):
    """The gradient is taken at theta + rho g / ||g||, the worst weights nearby, and used at theta (Foret et al., ICLR 2021, arXiv 2010.01412).

    rho: radius, >= 0; 0 is the optimiser alone, but for dropout, which draws anew in the second pass. The norm is over all of the optimiser's parameters.
    Running statistics and other buffers follow the first pass only. Weights come back exactly.
    """

    def __init__(self, model: nn.Module, optimiser: Optimizer, *, rho: float = 0.05, label_smoothing: float = 0.0):
        super().__init__(model, optimiser, label_smoothing=label_smoothing)
        self.rho = _number("rho", rho, 0)

    def _step(self, images, labels, indices, epoch):
        logits = _logits(self.model, images)
        entropy = self._entropy(logits, labels)
        self._finite(entropy)
        loss = self._gradient(images, labels, logits, entropy)
        self.optimiser.step()
        return Step(loss.detach(), entropy.detach(), None, logits.detach())

    def _gradient(self, images: Tensor, labels: Tensor, logits: Tensor, entropy: Tensor) -> Tensor:
        """Leaves the gradient of the step in the parameters; the loss that it is of."""
        return self._climb(images, labels, entropy)[0]

    def _climb(self, images: Tensor, labels: Tensor, entropy: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient nearby goes into the parameters; the loss there, and the gradient at the weights."""
        parameters = self._parameters()
        gradients = torch.autograd.grad(entropy, parameters, allow_unused=True)
        with moved(parameters, ascent(gradients, self.rho, self._scales(parameters))), still_statistics(self.model):
            loss = self._entropy(_logits(self.model, images), labels)
            self._backward(loss)
        return loss, gradients

    def _scales(self, parameters: Sequence[Tensor]) -> list[Tensor] | None:
        """T of the adaptive radius; None is 1."""
        return None


class ASAM(SAM):
    """SAM in a radius that goes with the size of each weight: e = rho T^2 g / ||T g|| (Kwon et al., ICML 2021, arXiv 2102.11600).

    rho: as SAM's but some ten times as large; eta: T is |theta| + eta for parameters with "weight" in their names, and 1 for others.
    """

    def __init__(self, model: nn.Module, optimiser: Optimizer, *, rho: float = 0.5, eta: float = 0.01, label_smoothing: float = 0.0):
        super().__init__(model, optimiser, rho=rho, label_smoothing=label_smoothing)
        self.eta = _number("eta", eta, 0)

    def _scales(self, parameters):
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return adaptive_scales([names.get(id(parameter), "") for parameter in parameters], parameters, self.eta)


class ESAM(SAM):
    """SAM with a part of the parameters in the ascent and a part of the batch in the gradient (Du et al., ICLR 2022, arXiv 2110.03141, as its code has it).

    beta: in (0, 1], the chance of each parameter tensor to take part in the ascent, which is divided by beta. gamma: in (0, 1], the share of the batch whose
    loss rises most, from which `select_sharp` takes the samples of the gradient; 1 takes all, without the pass that finds out. generator: of the chances.
    """

    def __init__(
        self, model: nn.Module, optimiser: Optimizer, *, rho: float = 0.05, beta: float = 0.6, gamma: float = 0.5, generator: torch.Generator | None = None,
        label_smoothing: float = 0.0,
    ):  # fmt: skip
        super().__init__(model, optimiser, rho=rho, label_smoothing=label_smoothing)
        self.beta, self.gamma = _number("beta", beta, 0, 1, above=0), _number("gamma", gamma, 0, 1, above=0)
        self.generator = _generator(generator)

    def _gradient(self, images, labels, logits, entropy):
        parameters = self._parameters()
        device = "cpu" if self.generator is None else self.generator.device
        drawn = (torch.rand(len(parameters), generator=self.generator, device=device) < self.beta).tolist()
        climbing = [parameter for parameter, takes_part in zip(parameters, drawn) if takes_part]
        gradients = torch.autograd.grad(entropy, climbing, allow_unused=True) if climbing else ()
        with moved(climbing, ascent(gradients, self.rho / self.beta)), still_statistics(self.model):
            if self.gamma < 1:
                with torch.no_grad():
                    rises = self._entropy(_logits(self.model, images), labels, "none") - self._entropy(logits, labels, "none")
                if not torch.isfinite(rises).all():
                    raise ValueError("the loss of each sample must be finite nearby, got another: look for NaN in images and weights, or take a smaller rho")
                kept = _sharpest(rises, self.gamma)
                images, labels = images[kept.to(images.device)], labels[kept.to(labels.device)]
            loss = self._entropy(_logits(self.model, images), labels)
            self._backward(loss)
        return loss


def select_sharp(rises, gamma: float):
    """Which samples ESAM's gradient is of: those whose loss rose by more than the int(gamma B)-th largest rise, one fewer than int(gamma B) without ties.

    rises: (B,). Returns (B,) booleans like `rises`: all at gamma = 1; those that rose most where the rule would leave nobody.
    """
    given = _numbers("rises", rises, (None,), "(B,)")
    return _like(rises, _sharpest(given, _number("gamma", gamma, 0, 1, above=0)))


def _sharpest(rises: Tensor, gamma: float) -> Tensor:
    if gamma == 1:
        return torch.ones_like(rises, dtype=torch.bool)
    bound = rises.topk(max(1, int(gamma * len(rises)))).values[-1]
    kept = rises > bound
    return kept if kept.any() else rises >= bound


class LookSAM(SAM):
    """SAM at every k-th step, which keeps what its gradient has across the plain one for the steps between (Liu et al., CVPR 2022, arXiv 2203.02714).

    every: k >= 1. alpha: between, the gradient is g + alpha ||g|| / ||g_v|| g_v, where g_v is the part of SAM's last gradient orthogonal to the plain one
    there. There is no official code.
    """

    def __init__(self, model: nn.Module, optimiser: Optimizer, *, rho: float = 0.05, every: int = 5, alpha: float = 0.7, label_smoothing: float = 0.0):
        super().__init__(model, optimiser, rho=rho, label_smoothing=label_smoothing)
        self.every, self.alpha = _integer("every", every, 1), _number("alpha", alpha, 0)
        self.steps, self.across, self._climbers = 0, [], []

    def state_dict(self):
        return {"steps": self.steps, "across": [None if part is None else part.clone() for part in self.across]}

    def _restore(self, state):
        parts, learners = state["across"], self._parameters()
        if parts and [p.shape for p, like in zip(parts, learners) if p is not None] != [like.shape for p, like in zip(parts, learners) if p is not None]:
            raise ValueError("state must be of a method whose optimiser has the same parameters, got other shapes in across")
        self.steps, self.across = state["steps"], [None if part is None else part.to(like, copy=True) for part, like in zip(parts, learners)]
        self._climbers = learners[: len(parts)]

    def _gradient(self, images, labels, logits, entropy):
        parameters = self._parameters()
        if self.steps % self.every == 0 or [*map(id, parameters)] != [*map(id, self._climbers)]:  # some began or ceased to learn
            loss, plain = self._climb(images, labels, entropy)
            self._climbers = parameters
            self.across = orthogonal([parameter.grad for parameter in parameters], plain)
        else:
            loss = entropy
            self._backward(loss)
            length = self.alpha * norm([parameter.grad for parameter in parameters]) / (norm(self.across) + TINY)
            for parameter, part in zip(parameters, self.across, strict=True):
                if part is not None and parameter.grad is not None:
                    parameter.grad.add_(length * part)
        self.steps += 1
        return loss


METHODS = {
    "plain": Plain, "SAF": SAF, "MESA": MESA, "uniform": Uniform, "frozen": Frozen, "SAM": SAM, "ASAM": ASAM, "ESAM": ESAM, "LookSAM": LookSAM,
}  # fmt: skip
