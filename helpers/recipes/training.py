"""What every recipe shares: a resumable loop, a moving average of the weights, seeds by step.

Everything random in step n is looked up from (seed, n), never drawn from a running generator. A run that was killed and continued
therefore sees the same batches and the same noise, and ends with the same weights, as one that was left alone.
"""

import argparse
import contextlib
import copy
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from .. import checkout
from ..arguments import function, got, instance, integer, real
from .manifest import DATA, write_manifest

__all__ = [
    "CHECKPOINT_SECONDS", "Average", "autocast", "autocast_with_attention", "average_gradients", "begin", "has_bfloat16", "join_processes", "machine_kind",
    "memory_format", "quality_table", "save_atomically", "step_generator", "stratified", "train", "value_at", "wait_for_all", "warmup_linear", "write_folder",
    "write_manifest_of",
]  # fmt: skip

CHECKPOINT_SECONDS = 240


def join_processes() -> tuple[int, int]:
    """(rank, number of processes): joins the group that torchrun has announced; (0, 1) when started plainly."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def begin(name: str, description: str) -> tuple[Path, Path, int, torch.device]:
    """What every recipe starts with: (folder of the checkpoints, folder of the finished model, rank, device); one thread a process."""
    instance("name", name, str, "a text")
    instance("description", description, str, "a text")
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=Path(".recipes") / name, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=DATA / "models" / name, help="folder of the finished model")
    arguments = parser.parse_args()
    if arguments.out == parser.get_default("out"):
        try:
            checkout.require(f"{name} without --out FOLDER")
        except FileNotFoundError as error:
            parser.error(str(error))
    rank, _ = join_processes()
    torch.set_num_threads(1)
    return arguments.work, arguments.out, rank, torch.device(f"cuda:{rank}" if torch.cuda.is_available() else "cpu")


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def average_gradients(module: nn.Module) -> None:
    """Mean of every process's gradients: each has seen its own equal part of the batch."""
    instance("module", module, nn.Module, "a torch.nn.Module")
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(piece.view_as(gradient))


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator for one step, the same whenever and wherever the step is run."""
    seed, step = integer("seed", seed, low=0), integer("step", step, low=0)
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 7_919 + 12_345) % 2**63)


def stratified(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) numbers in [0, 1), one from each of `count` equal slices, shuffled: with timesteps drawn like this the loss of a step varies less."""
    count = integer("count", count, low=1)
    instance("generator", generator, torch.Generator, "a torch.Generator")
    return ((torch.arange(count) + torch.rand(count, generator=generator)) / count)[torch.randperm(count, generator=generator)]


def value_at(schedule: dict, step: int):
    """The value of {first step: value}, steps ascending from 0 or below, that holds at `step`."""
    instance("schedule", schedule, dict, "{first step: value}")
    starts, step = [integer("schedule", start) for start in schedule], integer("step", step, low=0)
    if not starts or starts[0] > 0 or any(later <= start for start, later in zip(starts, starts[1:])):
        raise ValueError(f"schedule must hold ascending steps, the first of them 0, got {starts}")
    return next(value for start, value in reversed(schedule.items()) if step >= start)


def warmup_linear(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: up over `warmup` steps, then down in a line to 0 at `steps`."""
    step, steps, warmup = integer("step", step, low=0), integer("steps", steps, low=1), integer("warmup", warmup, low=1)
    return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))


def save_atomically(state, path: Path) -> None:
    """Write beside the target, then rename: a kill leaves the old file or the new one, never half of one."""
    instance("path", path, Path, "a Path")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


class Average:
    """Exponential moving average of a module's weights; the decay grows from 0 to `decay` in the first steps."""

    def __init__(self, module: nn.Module, decay: float):
        instance("module", module, nn.Module, "a torch.nn.Module")
        self.decay = real("decay", decay, low=0, high=1)
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        new = list(module.parameters())
        old = list(self.module.parameters())
        torch._foreach_mul_(old, decay)
        torch._foreach_add_(old, [p.detach() for p in new], alpha=1 - decay)


def train(
    module: nn.Module, loss_of: Callable[[nn.Module, int], torch.Tensor], *, steps: int, checkpoint: Path, learning_rate: float, warmup: int,
    decay: float, weight_decay: float = 0.01, clip: float = 1.0, label: str = "training", stop_at: int | None = None,
) -> nn.Module:  # fmt: skip
    """Minimise loss_of(module, step) with AdamW over `steps` steps; returns the averaged module.

    Under torchrun every process computes the loss of its own part of the batch, gradients are averaged, and rank 0 writes. Goes on from
    `checkpoint` when it exists, writes it at least every CHECKPOINT_SECONDS and at the end. `stop_at` ends early (to be continued by a
    later call). Raises FloatingPointError when the loss is not finite; the checkpoint then keeps the last good state. Raises ValueError or TypeError for
    arguments that cannot be used, before a checkpoint is read.
    """
    instance("module", module, nn.Module, "a torch.nn.Module")
    function("loss_of", loss_of, "a function of module and step")
    instance("checkpoint", checkpoint, Path, "a Path")
    instance("label", label, str, "a text")
    steps, warmup = integer("steps", steps, low=1), integer("warmup", warmup, low=1)
    stop_at = None if stop_at is None else integer("stop_at", stop_at, low=0)
    learning_rate, clip = real("learning_rate", learning_rate, low=0, above=True), real("clip", clip, low=0, above=True)
    decay, weight_decay = real("decay", decay, low=0, high=1), real("weight_decay", weight_decay, low=0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    average, start, seconds = Average(module, decay), 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]

    rank, world_size = join_processes()

    def write(step: int) -> None:
        if rank > 0:
            return
        save_atomically({"module": module.state_dict(), "average": average.module.state_dict(), "optimizer": optimizer.state_dict(),
                         "step": step, "seconds": seconds}, checkpoint)  # fmt: skip

    end = steps if stop_at is None else min(stop_at, steps)
    saved = clock = time.monotonic()
    running = None
    with tqdm(total=steps, initial=start, desc=label, unit="step", mininterval=5, disable=rank > 0) as bar:
        for step in range(start, end):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * warmup_linear(step, steps, warmup)
            loss = loss_of(module, step)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{label}: the loss is {loss.item()} at step {step}; {checkpoint} keeps the last good state")
            loss.backward()
            if world_size > 1:
                average_gradients(module)
            nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(module, step)
            now = time.monotonic()
            seconds, clock = seconds + now - clock, now
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
            bar.update()
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
            if now - saved > CHECKPOINT_SECONDS:
                write(step + 1)
                saved = now
    if end > start:
        write(end)
    average.module.seconds = seconds
    return average.module


# ------------------------------------------------------------------------------------------------------------ what a recipe leaves


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones: on GPUs and on CPUs with AVX-512; older CPUs emulate them at a tenth of the speed."""
    _device(device)
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX")


def _device(device) -> torch.device:
    return instance("device", device, torch.device, "a torch.device")


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where bfloat16 is fast, else none."""
    _device(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


@contextlib.contextmanager
def autocast_with_attention(device: torch.device) -> Iterator[None]:
    """`autocast` for transformers: on a CPU attention goes by plain matrix products, whose backward pass costs a fraction of the fused kernel's."""
    _device(device)
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext(), autocast(device):
        yield


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last for convolutions in bfloat16; the autoencoders' backward pass in float32 on a CPU is faster without it."""
    return torch.channels_last if has_bfloat16(device) else torch.contiguous_format


def machine_kind(device: torch.device) -> str:
    """What a model card says of the machine: kind and number, never a name."""
    _device(device)
    if device.type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return f"{processes} {platform.machine()} CPU core{'s' if processes > 1 else ''}, {'bfloat16 autocast' if has_bfloat16(device) else 'float32'}"


def write_folder(model, folder: Path, part: str = "") -> None:
    """`model.save_pretrained` into `folder` (or its subfolder `part`), as a whole: beside its place first, then in one move.

    Where a part was loaded from before is not kept: that is a path of this machine."""
    function("model", getattr(model, "save_pretrained", None), f"a model with save_pretrained, not {got(model)}")
    instance("folder", folder, Path, "a Path")
    instance("part", part, str, "a text")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial / part, safe_serialization=True)
    for path in partial.rglob("config.json"):
        path.write_text(re.sub(r' *"_name_or_path": .*\n', "", path.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def quality_table(quality: dict[str, dict]) -> str:
    """Markdown: what was measured, {column: {row: (percent, count)}}, a column for each kind of prompt."""
    tables = list(quality.values()) if isinstance(quality, dict) else []
    if not tables or not all(isinstance(table, dict) and table.keys() == tables[0].keys() for table in tables):
        raise TypeError(f"quality must be {{column: {{row: (percent, count)}}}} with the same rows in each, got {got(quality)}")
    rows = [name for name in next(iter(quality.values())) if name != "seconds a clip"]

    def cell(column: str, row: str) -> str:
        value, count = quality[column][row]
        return "-" if count == 0 else f"{value:.1f} % (n = {count})"

    head = f"| | {' | '.join(quality)} |\n| --- |{' --- |' * len(quality)}\n"
    return head + "\n".join(f"| {row} | " + " | ".join(cell(column, row) for column in quality) + " |" for row in rows)


def write_manifest_of(out: Path) -> None:
    """`write_manifest`, where a finished model's folder lies among the repository's own."""
    instance("out", out, Path, "a Path")
    if out.parent.resolve() == DATA / "models":
        write_manifest()
