"""Recipe of data/models/toy-mardini-variants: what toy-mardini is compared with on its page.

- plain: one video model of the pair's size without a planner, on the same masks.
- generator-32, -80, -160: generators of two layers and three widths that learn beside toy-mardini's finished planner, which stays as it is.
- alone-32, -80, -160: the same generators for as many steps, never with a plan.
- curriculum-0 .. 2 and hard-0 .. 2: a small pair, three seeds, on masks from easy to hard, and on the hard ones alone, for as many steps.
- losses.json: the held-out loss of small pairs while they learn, for the three forms of identity attention, three seeds each.

The folder is not kept (manifest.NOT_KEPT): what its models make of the page's clips stands in the studies masked_planning and masked_planning_training.
`python -m helpers.recipes.toy_mardini_variants` runs it; checkpoints lie under .recipes/toy-mardini-variants.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..methods import masked_planning as mp
from ..models import zoo
from . import toy_mardini as pair_recipe
from . import training

NAME = "toy-mardini-variants"
PLAIN = pair_recipe.FIRST_GENERATOR | dict(dim=160, depth=5, heads=5, mlp_dim=320, plan_dim=8, plan_tokens=1)
BATCH, PLAIN_STEPS = 32, 1200
HELD_OUT_SEED = 9  # of the family rebounds; clips that the losses are taken on
WIDTHS, WIDTH_STEPS = (32, 80, 160), 600
SMALL_PLANNER = pair_recipe.PLANNER | dict(dim=96, depth=3, heads=4, mlp_dim=192)
SMALL_GENERATOR = pair_recipe.FIRST_GENERATOR | dict(plan_dim=96)
SEEDS, SMALL_STEPS = 3, 450
HARD = pair_recipe.HARD_RATIOS
EASY_TO_HARD = {0: (0.35, 1.0), 150: (0.15, 0.6), 300: (0.06, 0.3)}
MIDDLE = {0: (0.15, 0.6)}
IDENTITIES, IDENTITY_STEPS, LOOKS = ("token", "frame", "none"), 200, 5


@dataclass
class Variant:
    """generator, planner: configurations. planner "finished": toy-mardini's, which does not learn; None: no plan at all. ratios: the range of the share of
    reference frames, from each step on. looks: how often the held-out loss is taken. compiled: worth it for wide ones."""

    generator: dict
    planner: dict | str | None
    ratios: dict
    steps: int
    seed: int
    looks: int = 0
    compiled: bool = False


class Parts(nn.Module):
    """What learns: a generator, and a planner where there is one."""

    def __init__(self, generator: dict, planner: dict | str | None = None):
        super().__init__()
        self.generator = mp.Generator(**generator)
        self.planner = mp.Planner(**planner) if isinstance(planner, dict) else None


def variants() -> dict[str, Variant]:
    found = {}
    for width in WIDTHS:
        sized = pair_recipe.FIRST_GENERATOR | dict(dim=width, mlp_dim=2 * width)
        found[f"generator-{width}"] = Variant(sized, "finished", HARD, WIDTH_STEPS, 2, compiled=width > 100)
        found[f"alone-{width}"] = Variant(sized, None, HARD, WIDTH_STEPS, 2, compiled=width > 100)
    for seed in range(SEEDS):
        found[f"curriculum-{seed}"] = Variant(SMALL_GENERATOR, SMALL_PLANNER, EASY_TO_HARD, SMALL_STEPS, 10 + seed)
        found[f"hard-{seed}"] = Variant(SMALL_GENERATOR, SMALL_PLANNER, HARD, SMALL_STEPS, 10 + seed)
    for identity in IDENTITIES:
        form = dict(identity=None if identity == "none" else identity)
        for seed in range(SEEDS):
            found[f"identity-{identity}-{seed}"] = Variant(SMALL_GENERATOR | form, SMALL_PLANNER | form, MIDDLE, IDENTITY_STEPS, 20 + seed, LOOKS)
    return found | {"plain": Variant(PLAIN, None, HARD, PLAIN_STEPS, 1, compiled=True)}


def loss_of(
    parts: Parts, finished: mp.Planner | None, scheduler, clean: Tensor, is_ref: Tensor, timestep: Tensor, noise: Tensor, dropped: Tensor,
) -> Tensor:  # fmt: skip
    """The joint loss, with plans of the variant's own planner, else of `finished`, else without plans."""
    plan, low = None, mp.low_resolution(clean, pair_recipe.LATENT // pair_recipe.PLANNER["height"])
    if parts.planner is not None:
        plan = parts.planner(low, is_ref)
    elif finished is not None:
        with torch.no_grad():
            plan = finished(low, is_ref)
    plan = None if plan is None else parts.generator.replace_plans(plan, dropped)
    return mp.generator_loss(parts.generator, scheduler, clean, is_ref, timestep, noise, plan)


def train(
    name: str, bank: Tensor, held_out: Tensor, finished: mp.Planner, work: Path, device: torch.device, stop_at: int | None = None, compiled: bool = False,
) -> tuple[Parts, dict[int, float]]:  # fmt: skip
    """The averaged weights of one variant, and its loss on `held_out` after some steps, where it is taken. compiled: as in `toy_mardini.train`."""
    variant = variants()[name]
    finished = finished if variant.planner == "finished" else None
    torch.manual_seed(variant.seed)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    parts, scheduler = Parts(variant.generator, variant.planner).to(device), mp.make_scheduler()
    if compiled and variant.compiled:
        parts.generator.compile(dynamic=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)

    def step_loss(parts: Parts, step: int) -> Tensor:
        with training.autocast_with_attention(device):
            batch = pair_recipe.batch_of(bank, variant.seed, step, variant.ratios, mine, device, pair_recipe.HARD_SHIFT, BATCH)
            return loss_of(parts, finished, scheduler, *batch)

    def learn(until: int | None) -> Parts:
        return training.train(parts, step_loss, steps=variant.steps, checkpoint=work / f"{name}.pt", learning_rate=1e-3, warmup=100, decay=0.995,
                              label=name, stop_at=until).eval()  # fmt: skip

    kept, losses = work / f"{name}.json", {}
    if kept.exists():
        losses = {int(step): loss for step, loss in json.loads(kept.read_text()).items()}
    for look in range(1, variant.looks + 1):
        until = variant.steps * look // variant.looks
        if until in losses or stop_at is not None and until > stop_at:
            continue
        losses[until] = held_out_loss(learn(until), held_out, finished, scheduler, variant.ratios, device)
        if rank == 0:
            kept.write_text(json.dumps(losses))
    return learn(stop_at), losses


def held_out_clips(vae: AutoencoderKL) -> Tensor:
    """Latents of clips that nothing was trained on."""
    return pair_recipe.encode(vae, pair_recipe.sample(HELD_OUT_SEED, range(5000, 5064)).render().video)


@torch.no_grad()
def held_out_loss(parts: Parts, held_out: Tensor, finished: mp.Planner | None, scheduler, ratios: dict, device: torch.device, batches: int = 4) -> float:
    """The same clips, masks, timesteps and noise for every variant; no plan is dropped."""
    total = 0.0
    for k in range(batches):
        *batch, dropped = pair_recipe.batch_of(held_out, 77, k, ratios, slice(None), device, pair_recipe.HARD_SHIFT, BATCH)
        total += loss_of(parts, finished, scheduler, *batch, torch.zeros_like(dropped)).item()
    return total / batches


def card(losses: dict[str, dict[int, float]], seconds: dict[str, float], device: torch.device) -> str:
    """The model card, as text. seconds: how long each variant learned."""
    last = "\n".join(f"| {name} | {list(found.values())[-1]:.3f} |" for name, found in losses.items())
    return f"""# {NAME}

What [toy-mardini](../toy-mardini/README.md) is compared with on its page; made by `make model NAME={NAME}` from the same clips,
{BATCH} at a time ({sum(seconds.values()) / 60:.0f} minutes in all, {training.machine_kind(device)}). Each one's seconds are in `seconds.json`.
The folder is not kept in the repository: what these models make of the page's clips stands in data/studies.

- `plain`: one video model of the pair's size, space-time attention, no planner; {PLAIN_STEPS} steps on the same masks, {seconds["plain"] / 60:.0f} minutes.
- `generator-{", -".join(map(str, WIDTHS))}`: generators of these widths, {WIDTH_STEPS} steps beside toy-mardini's finished planner; `alone-...`: the same
  without a plan.
- `curriculum-0` .. `{SEEDS - 1}`, `hard-0` .. `{SEEDS - 1}`: small pairs, {SMALL_STEPS} steps: masks from easy to hard, or hard ones from the start.
- `losses.json`: held-out loss while small pairs learn with the three forms of identity attention; after {IDENTITY_STEPS} steps:

| identity attention, seed | loss |
| --- | --- |
{last}
"""


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    pipe = mp.MarDiniPipeline.from_pretrained(zoo.folder(pair_recipe.NAME), local_files_only=True).to(device)
    bank, held_out, finished = pair_recipe.make_bank(pipe.vae, work.with_name(pair_recipe.NAME)), held_out_clips(pipe.vae), pipe.planner.eval()
    losses, seconds = {}, {}
    for name, variant in variants().items():
        parts, found = train(name, bank, held_out, finished, work, device, compiled=shutil.which("c++") is not None)
        seconds[name] = round(parts.seconds)
        if variant.looks:
            losses[name] = found
        elif rank == 0:
            parts = parts.cpu().half()
            training.write_folder(parts.generator, out / name, "generator")
            if parts.planner is not None:
                parts.planner.save_pretrained(out / name / "planner")
    if rank == 0:
        (out / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")
        (out / "seconds.json").write_text(json.dumps(seconds, indent=1) + "\n")
        (out / "README.md").write_text(card(losses, seconds, device))
        training.write_manifest_of(out)


if __name__ == "__main__":
    main()
