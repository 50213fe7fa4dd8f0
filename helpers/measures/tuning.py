"""One bench for every way to tune a frozen transformer to a small task: the same trainer, the same pictures in the same order, the same new head.

    backbone = ViTForImageClassification.from_pretrained(...)               # never changed: each tuning works on a copy
    choice = search(backbone, "SSF", *train, *validation, classes=10)       # learning rate, number of prompts, weight decay, by validation
    tuned = fit(backbone, "SSF", *both, classes=10, rate=choice.rate, decay=choice.decay, seed=3)
    accuracy(tuned, *test), bytes_a_task(tuned), tuned.count                # in percent; a safetensors file's size; trained numbers

Protocol, for all of METHODS: AdamW, rates warmed up over a tenth of the steps and then lowered to 0 along half a cosine, cross-entropy, no augmentation,
dropout of the backbone off. The new head learns at `head_rate`; a method's rate is that of what it trains beside the head (of "linear", the head's own).
With one rate for both, full tuning must choose: a small one leaves the head untrained, a large one undoes the network. Decay never touches tensors of one axis
(biases, norms, scales and shifts) nor IA3's scales, which belong near 1. `seed` gives the head's start, the method's own, and the order of the pictures, of
which head and order are the same for every method. The paper on prompts trains them by SGD with rates up to 50; here everybody has one optimiser and a grid of
as many rates around what suits its kind.

Where all before a point is frozen, it is computed once: "linear" and "MLP-3" train on features, "partial-1" on what its block reads; that is exact.
"""

import copy
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from peft import IA3Config, LNTuningConfig, LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViTForImageClassification

from ..arguments import choice, got, instance, integer, like, numbers, real
from ..methods import scale_and_shift, visual_prompt_tuning

__all__ = [
    "BATCH", "DECAYS", "HEAD_RATE", "METHODS", "NUM_PROMPTS", "PROMPTS", "RANK", "REDUCTION", "STEPS", "Choice", "Tuned", "accuracy", "batches",
    "bytes_a_task", "fit", "groups", "held_out", "logits", "prepare", "rate_factor", "search", "storage", "time_ratio",
]  # fmt: skip

NUM_PROMPTS, RANK, REDUCTION = 8, 8, 8  # prompts where none are chosen; rank of LoRA and DoRA; width of the backbone over that of an adapter
STEPS, BATCH, WARM_UP, HEAD_RATE = 150, 16, 0.1, 3e-3
DECAYS, PROMPTS = (0.0, 0.1), (1, 4, 8)  # what is tried; prompts a layer, where deep
AT_ONCE = 200  # pictures, where nothing is trained
DROPOUT = 0.1  # of the MLP head


# -------------------------------------------------------------------------------------------------------------------------- the methods


def _nothing(model: ViTForImageClassification) -> list[nn.Module]:
    return []


def _everything(model: ViTForImageClassification) -> list[nn.Module]:
    model.requires_grad_(True)
    return []


def _last_block(model: ViTForImageClassification) -> list[nn.Module]:
    model.vit.layers[-1].requires_grad_(True)
    model.vit.layernorm.requires_grad_(True)
    return []


def _mlp(model: ViTForImageClassification) -> list[nn.Module]:
    """Two hidden layers of the backbone's width before the head: Linear, ReLU, BatchNorm, Dropout each."""
    width = model.config.hidden_size
    hidden = [part for _ in range(2) for part in (nn.Linear(width, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(DROPOUT))]
    model.classifier = nn.Sequential(*hidden, model.classifier)
    return []


def _biases(model: ViTForImageClassification) -> list[nn.Module]:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("bias" in name)
    return []


def _peft(config: Callable, **options) -> Callable:
    def attach(model: ViTForImageClassification) -> list[nn.Module]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unsupported layer type")  # peft says so of every LayerNorm, and tunes it
            inject_adapter_in_model(config(**options), model)
        return []

    return attach


def _adapters(init: str) -> Callable:
    return lambda model: [visual_prompt_tuning.add_adapters(model, reduction=REDUCTION, init=init)]


def _prompts(mode: str) -> Callable:
    return lambda model, num_prompts: [visual_prompt_tuning.add_prompts(model, num_prompts=num_prompts, mode=mode)]


def _scale_and_shift(model: ViTForImageClassification) -> list[nn.Module]:
    return [scale_and_shift.add_scale_shift(model, style="hooks")]


def _both(model: ViTForImageClassification, num_prompts: int) -> list[nn.Module]:
    return _scale_and_shift(model) + _prompts("deep")(model, num_prompts)


@dataclass(frozen=True)
class Way:
    """attach: of a frozen model with its new head makes one that trains more; gives the modules that were added beside it. rates: the grid, ascending.
    reads: what the trained part begins with: "pixels", "block" (what the last block reads) or "features" (what the head reads). prompts: the numbers to
    choose from, ascending; where there are some, `attach` gets one."""

    attach: Callable[..., list[nn.Module]]
    rates: tuple[float, ...]
    reads: str = "pixels"
    prompts: tuple[int, ...] = ()


_SLOW, _MIDDLE, _FAST = (3e-5, 1e-4, 3e-4, 1e-3), (3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 3e-3, 1e-2, 3e-2)
METHODS = {
    "linear": Way(_nothing, _FAST, "features"),
    "full": Way(_everything, _SLOW),
    "partial-1": Way(_last_block, _MIDDLE, "block"),
    "MLP-3": Way(_mlp, _FAST, "features"),
    "bias": Way(_biases, _FAST),
    "LayerNorm": Way(_peft(LNTuningConfig, target_modules=["layernorm_before", "layernorm_after", "layernorm"]), _FAST),
    "adapter": Way(_adapters("proper"), _MIDDLE),
    "adapter (official)": Way(_adapters("official"), _FAST),
    "LoRA": Way(_peft(LoraConfig, r=RANK, lora_alpha=RANK, target_modules=["q_proj", "v_proj"]), _MIDDLE),
    "IA3": Way(_peft(IA3Config, target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"]), _FAST),
    "DoRA": Way(_peft(LoraConfig, r=RANK, lora_alpha=RANK, target_modules=["q_proj", "v_proj"], use_dora=True), _MIDDLE),
    "VPT-shallow": Way(_prompts("shallow"), _FAST, prompts=PROMPTS),
    "VPT-deep": Way(_prompts("deep"), _FAST, prompts=PROMPTS),
    "SSF": Way(_scale_and_shift, _FAST),
    "SSF + VPT": Way(_both, _FAST, prompts=PROMPTS),
}


@dataclass
class Tuned:
    """A backbone's copy with a new head, of which `trained` (by name) is what its method trains; `added`: modules beside the model, such as prompts."""

    method: str
    classes: int
    model: ViTForImageClassification
    added: list[nn.Module] = field(repr=False)
    trained: dict[str, nn.Parameter] = field(repr=False)

    @property
    def count(self) -> int:
        """Trained numbers, the head's included."""
        return sum(parameter.numel() for parameter in self.trained.values())

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, which is new and which every method trains."""
        return self.model.classifier[-1] if isinstance(self.model.classifier, nn.Sequential) else self.model.classifier

    @property
    def count_without_head(self) -> int:
        """Trained numbers but those of the head."""
        return self.count - sum(parameter.numel() for parameter in self.head.parameters())

    def train(self, on: bool = True) -> None:
        """The head and what was added follow; the backbone's own dropout stays off."""
        self.model.eval()
        self.model.training = on  # prompts look at it
        for module in (self.model.classifier, *self.added):
            module.train(on)


def prepare(backbone: ViTForImageClassification, method: str, *, classes: int, seed: int = 0, num_prompts: int | None = None) -> Tuned:
    """A copy of `backbone`, frozen but for what one of METHODS trains, with a new linear head for so many classes (normal, deviation 0.02, bias 0).

    The head depends on the seed alone; torch's own random numbers stay where they are. num_prompts: for methods with prompts (None: NUM_PROMPTS). Raises
    TypeError for another kind of model; ValueError for one without values (on the meta device), one that is told to give tuples (return_dict=False) or has
    no linear head, for one that the method cannot be put on (narrower than REDUCTION for adapters, carrying pairs or adapters already), for an unknown
    method, fewer than two classes, no prompts, or prompts where the method has none.
    """
    _checked_model(backbone)
    way = METHODS[choice("method", method, METHODS)]
    options = _prompts_of(method, num_prompts)
    classes, seed = integer("classes", classes, low=2), integer("seed", seed, low=0, high=2**63 - 1)
    model = copy.deepcopy(backbone).requires_grad_(False).eval()
    weight = model.classifier.weight
    with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
        head = nn.Linear(model.config.hidden_size, classes, dtype=torch.float32)
        nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(head.bias)
        model.classifier = head.to(weight.device, weight.dtype)
        torch.manual_seed(seed)
        try:
            added = way.attach(model, **options)
        except ValueError as error:  # which names the argument of another function
            raise ValueError(f"backbone must be a model that {method} can be put on, got one of which that says: {error}") from error
    model.to(weight.device)
    model.classifier.to(weight.dtype).requires_grad_(True)
    named = [*model.named_parameters(), *((f"added.{i}.{name}", p) for i, module in enumerate(added) for name, p in module.named_parameters())]
    trained = {}
    for name, parameter in named:
        if parameter.requires_grad and all(parameter is not known for known in trained.values()):
            trained[name] = parameter
    tuned = Tuned(method, classes, model, added, trained)
    tuned.train(False)
    return tuned


def _prompts_of(method: str, num_prompts) -> dict:
    """What `attach` of a method gets."""
    if METHODS[method].prompts:
        return dict(num_prompts=NUM_PROMPTS if num_prompts is None else integer("num_prompts", num_prompts, low=1))
    if num_prompts is not None:
        raise ValueError(f"num_prompts must be None for {method}, which has no prompts, got {got(num_prompts)}")
    return {}


def _checked_model(backbone) -> ViTForImageClassification:
    instance("backbone", backbone, ViTForImageClassification, "a ViTForImageClassification of transformers")
    if not isinstance(backbone.classifier, nn.Linear):
        raise ValueError(f"backbone must have a linear head to replace, got {got(backbone.classifier)}")
    if any(parameter.is_meta for parameter in backbone.parameters()):
        raise ValueError("backbone must have values, got parameters on the meta device")
    if getattr(backbone.config, "return_dict", True) is False:
        raise ValueError("backbone must give its outputs by name, got one whose config has return_dict=False")
    return backbone


# ------------------------------------------------------------------------------------------------------------------------- what is read


def _inputs(model: ViTForImageClassification, reads: str, images: Tensor) -> Tensor:
    """What the trained part reads of pictures (N, 3, S, S) in [0, 1]: pixels (N, 3, S, S) in [-1, 1], what the last block reads (N, 1 + m, d), or the
    class token's features (N, d)."""
    pixels = (2 * images - 1).to(model.device, model.dtype)
    if reads == "pixels":
        return pixels
    with torch.no_grad():
        return torch.cat([_before(model, reads, some) for some in pixels.split(AT_ONCE)])


def _before(model: ViTForImageClassification, reads: str, pixels: Tensor) -> Tensor:
    if reads == "features":
        return model.vit(pixels).last_hidden_state[:, 0]
    hidden = model.vit.embeddings(pixels)
    for block in model.vit.layers[:-1]:
        hidden = block(hidden)
    return hidden


def _forward(tuned: Tuned, inputs: Tensor) -> Tensor:
    """From `_inputs` to logits (N, classes)."""
    reads, model = METHODS[tuned.method].reads, tuned.model
    if reads == "features":
        return model.classifier(inputs)
    if reads == "block":
        return model.classifier(model.vit.layernorm(model.vit.layers[-1](inputs))[:, 0])
    return model(pixel_values=inputs).logits


@torch.no_grad()
def _said(tuned: Tuned, inputs: Tensor) -> Tensor:
    tuned.train(False)
    return torch.cat([_forward(tuned, some) for some in inputs.split(AT_ONCE)])


def logits(tuned: Tuned, images) -> Tensor:
    """Logits (N, classes) of pictures (N, 3, S, S) in [0, 1]. ValueError for other shapes and values, TypeError for what are no numbers."""
    instance("tuned", tuned, Tuned, "what prepare or fit gives")
    return _said(tuned, _inputs(tuned.model, METHODS[tuned.method].reads, _pictures(tuned.model, images)))


def accuracy(tuned: Tuned, images, labels) -> float:
    """Percent of pictures (N, 3, S, S) in [0, 1] whose label (N,), from 0 to classes - 1, has the largest logit. Raises as `logits` does."""
    instance("tuned", tuned, Tuned, "what prepare or fit gives")
    images, labels = _labelled(tuned.model, images, labels, tuned.classes)
    return _share_right(_said(tuned, _inputs(tuned.model, METHODS[tuned.method].reads, images)), labels)


def _share_right(said: Tensor, labels: Tensor) -> float:
    return 100 * float((said.argmax(1).cpu() == labels.cpu()).double().mean())


def _pictures(model: ViTForImageClassification, images, sizes: dict | None = None, name: str = "images") -> Tensor:
    size = model.config.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return numbers(name, images, f"N {model.config.num_channels} {height} {width}", sizes, low=0, high=1, dtype=torch.float32)


def _labelled(model: ViTForImageClassification, images, labels, classes: int, prefix: str = "") -> tuple[Tensor, Tensor]:
    sizes = {}
    images = _pictures(model, images, sizes, f"{prefix}images")
    return images, numbers(f"{prefix}labels", labels, "N", sizes, low=0, high=classes - 1, whole=True, dtype=torch.int64)


def _to_learn(model: ViTForImageClassification, images, labels, classes: int) -> tuple[Tensor, Tensor]:
    images, labels = _labelled(model, images, labels, classes)
    if len(known := labels.unique()) < 2:
        raise ValueError(f"labels must show at least two classes to learn from, got class {int(known[0])} alone")
    return images, labels


# ---------------------------------------------------------------------------------------------------------------------------- training


def rate_factor(step: int, *, steps: int, warm_up: float = WARM_UP) -> float:
    """By what the rate is multiplied at step 0 .. steps - 1: rises to 1 over the first `warm_up` (a share in [0, 1)), then half a cosine towards 0."""
    steps, warm_up = integer("steps", steps, low=1), real("warm_up", warm_up, low=0, high=1, below=True)
    step = integer("step", step, low=0, high=steps - 1)
    rising = max(1, round(warm_up * steps))
    return (step + 1) / rising if step < rising else 0.5 * (1 + math.cos(math.pi * (step + 1 - rising) / (steps + 1 - rising)))


def batches(count: int, *, steps: int = STEPS, batch: int = BATCH, seed: int = 0) -> Tensor:
    """Rows (steps, min(batch, count)) of `count` pictures: one random order after another, cut into batches. The same for every method."""
    count, steps, batch = integer("count", count, low=1), integer("steps", steps, low=1), integer("batch", batch, low=1)
    generator = torch.Generator().manual_seed(integer("seed", seed, low=0, high=2**63 - 1))
    size = min(batch, count)
    orders = [torch.randperm(count, generator=generator) for _ in range(-(-steps * size // count))]
    return torch.cat(orders)[: steps * size].view(steps, size)


def groups(trained: Mapping[str, nn.Parameter], head: nn.Module, *, rate: float, decay: float = 0.0, head_rate: float = HEAD_RATE) -> list[dict]:
    """Parameters for an optimiser of torch, by rate and decay: those of `head` at `head_rate`, all others at `rate`; without others, the head at `rate`.

    trained: what is trained, by name. Decay is 0 for tensors of one axis and for IA3's scales. ValueError where nothing is trained, a rate <= 0, decay < 0.
    """
    rate, decay, head_rate = real("rate", rate, low=0, above=True), real("decay", decay, low=0), real("head_rate", head_rate, low=0, above=True)
    if not instance("trained", trained, Mapping, "parameters by name"):
        raise ValueError("trained must hold at least one parameter, got none")
    new = {id(parameter) for parameter in instance("head", head, nn.Module, "a module of torch").parameters()}
    alone = all(id(parameter) in new for parameter in trained.values())
    found = {}
    for name, parameter in trained.items():
        own = head_rate if id(parameter) in new and not alone else rate
        found.setdefault((own, decay if parameter.ndim > 1 and "ia3_" not in name else 0.0), []).append(parameter)
    return [dict(params=params, lr=lr, weight_decay=weight_decay) for (lr, weight_decay), params in found.items()]


def _train(
    tuned: Tuned, inputs: Tensor, labels: Tensor, rate: float, decay: float, steps: int, batch: int, seed: int, head_rate: float = HEAD_RATE,
) -> Tuned:  # fmt: skip
    optimizer = torch.optim.AdamW(groups(tuned.trained, tuned.head, rate=rate, decay=decay, head_rate=head_rate), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(min(step, steps - 1), steps=steps))
    tuned.train()
    labels = labels.to(inputs.device)
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):  # dropout of the MLP head
        torch.manual_seed(seed)
        for rows in batches(len(labels), steps=steps, batch=batch, seed=seed).to(inputs.device):
            optimizer.zero_grad()
            F.cross_entropy(_forward(tuned, inputs[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    tuned.train(False)
    return tuned


def fit(
    backbone: ViTForImageClassification, method: str, images, labels, *, classes: int, rate: float, decay: float = 0.0, steps: int = STEPS,
    batch: int = BATCH, seed: int = 0, num_prompts: int | None = None, head_rate: float = HEAD_RATE,
) -> Tuned:  # fmt: skip
    """Tune a copy of `backbone` by one of METHODS on pictures (N, 3, S, S) in [0, 1] with labels (N,) from 0 to classes - 1.

    rate, decay: of what the method trains; head_rate: of the new head, but for "linear", whose rate is the head's. num_prompts: as in `prepare`. Raises
    ValueError for labels outside of the head, pictures of one class only, an unknown method, a rate <= 0, decay < 0, fewer than one step or two pictures a
    batch, under torch.no_grad() or inference_mode(), and what `prepare` refuses, all before any training; TypeError for other kinds.
    """
    _with_gradients("fit")
    _checked_model(backbone)
    way, classes = METHODS[choice("method", method, METHODS)], integer("classes", classes, low=2)
    rate, decay, steps, batch, seed = _options(rate, decay, steps, batch, seed)
    head_rate = real("head_rate", head_rate, low=0, above=True)
    _prompts_of(method, num_prompts)
    images, labels = _to_learn(backbone, images, labels, classes)
    tuned = prepare(backbone, method, classes=classes, seed=seed, num_prompts=num_prompts)
    return _train(tuned, _inputs(tuned.model, way.reads, images), labels, rate, decay, steps, batch, seed, head_rate)


def _with_gradients(call: str) -> None:
    if not torch.is_grad_enabled():
        raise ValueError(f"{call} must be called where gradients are on, got torch.no_grad() or inference_mode() around it")


def _options(rate, decay, steps, batch, seed) -> tuple:
    return (
        real("rate", rate, low=0, above=True), real("decay", decay, low=0), integer("steps", steps, low=1), integer("batch", batch, low=2),
        integer("seed", seed, low=0, high=2**63 - 1),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------------- choosing


class Choice(NamedTuple):
    """What was chosen (num_prompts: None for methods without prompts), its accuracy on the validation pictures in percent, and {(rate, decay, num_prompts):
    accuracy} of all that was tried, in the order tried."""

    rate: float
    decay: float
    num_prompts: int | None
    accuracy: float
    tried: dict[tuple[float, float, int | None], float]


def held_out(labels, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(rows to train on, rows to validate on) of labels (N,): of every class `count` are held out, drawn by the seed; both ascending.

    Raises ValueError where a class has no more than `count`, TypeError for what are no labels.
    """
    labels = numbers("labels", labels, "N", whole=True, low=0, dtype=torch.int64).cpu()
    count, seed = integer("count", count, low=1), integer("seed", seed, low=0)
    order, kept = np.random.default_rng(seed).permutation(len(labels)), []
    for c in labels.unique().tolist():
        members = order[(labels.numpy() == c)[order]]
        if len(members) <= count:
            raise ValueError(f"count must be at most {len(members) - 1}, one less than there are of class {c}, got {count}")
        kept += members[:count].tolist()
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[kept] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


def search(
    backbone: ViTForImageClassification, method: str, images, labels, validation_images, validation_labels, *, classes: int,
    rates: Iterable[float] | None = None, decays: Iterable[float] = DECAYS, steps: int = STEPS, batch: int = BATCH, seed: int = 0,
) -> Choice:  # fmt: skip
    """Learning rate, number of prompts (for methods that have some) and weight decay by accuracy on validation pictures, one after the other: first the rates
    (None: those of the method) with the fewest prompts and the smallest decay, then the numbers of prompts, then the decays. Of equals the smallest. Pictures,
    labels and errors as in `fit`."""
    _with_gradients("search")
    _checked_model(backbone)
    way, classes = METHODS[choice("method", method, METHODS)], integer("classes", classes, low=2)
    rates = _grid("rates", way.rates if rates is None else rates, above=True)
    decays = _grid("decays", decays)
    _, _, steps, batch, seed = _options(rates[0], decays[0], steps, batch, seed)
    images, labels = _to_learn(backbone, images, labels, classes)
    held = _labelled(backbone, validation_images, validation_labels, classes, "validation_")
    still = copy.deepcopy(backbone).eval()  # whatever mode the caller's is in
    known, asked = (_inputs(still, way.reads, pictures) for pictures in (images, held[0]))
    tried = {}

    def tells(num_prompts: int | None, rate: float, decay: float) -> float:
        if (rate, decay, num_prompts) not in tried:
            tuned = prepare(backbone, method, classes=classes, seed=seed, num_prompts=num_prompts)
            _train(tuned, known, labels, rate, decay, steps, batch, seed)
            tried[rate, decay, num_prompts] = _share_right(_said(tuned, asked), held[1])
        return tried[rate, decay, num_prompts]

    lengths = way.prompts or (None,)
    rate = max(rates, key=lambda rate: tells(lengths[0], rate, decays[0]))  # the first of equals: the smallest
    num_prompts = max(lengths, key=lambda num_prompts: tells(num_prompts, rate, decays[0]))
    decay = max(decays, key=lambda decay: tells(num_prompts, rate, decay))
    return Choice(rate, decay, num_prompts, tried[rate, decay, num_prompts], tried)


def _grid(name: str, values, above: bool = False) -> list[float]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of numbers, got {got(values)}")
    found = sorted(real(name, value, low=0, above=above) for value in values)
    if not found:
        raise ValueError(f"{name} must hold at least one number, got none")
    return found


# ------------------------------------------------------------------------------------------------------------------------ what it costs


def bytes_a_task(tuned: Tuned) -> int:
    """Size of the safetensors file of what this task needs beside the backbone: what was trained, and the statistics of the head's normalisation."""
    instance("tuned", tuned, Tuned, "what prepare or fit gives")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.safetensors"
        save_file(_stored(tuned), path)
        return path.stat().st_size


def _stored(tuned: Tuned) -> dict[str, Tensor]:
    kept = tuned.trained | {f"classifier.{name}": buffer for name, buffer in tuned.model.classifier.named_buffers()}
    return {name: tensor.detach().cpu().clone() for name, tensor in kept.items()}


def storage(tasks, *, a_task: float, backbone: float):
    """Bytes on disk for so many tasks (N,): one backbone and what each task adds. tasks: whole numbers >= 0; same kind comes back."""
    counts = numbers("tasks", tasks, "N", whole=True, low=0)
    return like(tasks, real("backbone", backbone, low=0) + counts.double() * real("a_task", a_task, low=0))


def time_ratio(tuned: Tuned, backbone: ViTForImageClassification, images, *, rounds: int = 5) -> float:
    """Seconds that a tuned model takes for pictures over those of the frozen backbone: least of so many rounds each, taken in turns in this process."""
    instance("tuned", tuned, Tuned, "what prepare or fit gives")
    _checked_model(backbone)
    pixels, rounds = _inputs(backbone, "pixels", _pictures(backbone, images)), integer("rounds", rounds, low=1)
    models, seconds = (tuned.model, backbone), ([], [])
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        for turn in range(rounds + 1):  # the first warms up
            for model, taken in zip(models, seconds, strict=True):
                started = time.perf_counter()
                model(pixel_values=pixels).logits.sum().item()
                taken += [time.perf_counter() - started] if turn else []
    backbone.train(training)
    return min(seconds[0]) / min(seconds[1])
