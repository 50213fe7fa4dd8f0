"""Recipe of data/models/toy-mardini-variants: what toy-mardini is compared with on its page.

- plain: one video model of the pair's size without a planner, on the same masks for as many steps.
- generator-32, -80, -192: generators of three widths that learn beside toy-mardini's finished planner, which stays as it is.
- curriculum-0 .. 2 and hard-0 .. 2: a small pair, three seeds, on masks from easy to hard, and on the hard ones alone, for as many steps.

`python -m helpers.recipes.toy_mardini_variants` runs it; checkpoints lie under .recipes/toy-mardini-variants.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import zoo
from ..methods import masked_planning as mp
from . import toy_mardini as pair_recipe
from . import training

NAME = "toy-mardini-variants"
PLAIN = dict(in_channels=4, height=8, width=8, patch=2, frames=9, dim=192, depth=5, heads=6, mlp_dim=384, plan_dim=8, plan_tokens=1, mixer="space-time")
WIDTHS, WIDTH_STEPS = (32, 80, 192), 600
SMALL_PLANNER = pair_recipe.PLANNER | dict(dim=96, depth=3, heads=4, mlp_dim=192)
SMALL_GENERATOR = pair_recipe.GENERATOR | dict(plan_dim=96)
SEEDS, SMALL_STEPS = 3, 900
HARD = {0: (0.06, 0.3)}
EASY_TO_HARD = {0: (0.35, 1.0), 300: (0.15, 0.6), 600: (0.06, 0.3)}


class Parts(nn.Module):
    """What learns: a generator, and a planner where there is one."""

    def __init__(self, generator: dict, planner: dict | None = None):
        super().__init__()
        self.generator = mp.Generator(**generator)
        self.planner = None if planner is None else mp.Planner(**planner)


def variants() -> dict[str, tuple[dict, dict | None, dict, int, int]]:
    """{name: (generator, planner, ratios, steps, seed)}; a planner of None with a plan_dim of the pair's means the finished one."""
    found = {"plain": (PLAIN, None, pair_recipe.JOINT_RATIOS, pair_recipe.JOINT_STEPS, 1)}
    for width in WIDTHS:
        found[f"generator-{width}"] = (pair_recipe.GENERATOR | dict(dim=width, mlp_dim=2 * width), None, EASY_TO_HARD, WIDTH_STEPS, 2)
    for seed in range(SEEDS):
        found[f"curriculum-{seed}"] = (SMALL_GENERATOR, SMALL_PLANNER, EASY_TO_HARD, SMALL_STEPS, 10 + seed)
        found[f"hard-{seed}"] = (SMALL_GENERATOR, SMALL_PLANNER, HARD, SMALL_STEPS, 10 + seed)
    return found


def train(name: str, bank: Tensor, finished: mp.Planner, work: Path, device: torch.device, stop_at: int | None = None) -> Parts:
    """The averaged weights of one variant."""
    generator, planner, ratios, steps, seed = variants()[name]
    torch.manual_seed(seed)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    parts, scheduler = Parts(generator, planner).to(device), mp.make_scheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    has_plan = planner is not None or generator["plan_dim"] == finished.config.dim
    factor = pair_recipe.LATENT // pair_recipe.PLANNER["height"]

    def loss_of(parts: Parts, step: int) -> Tensor:
        clean, is_ref, timestep, noise, dropped = pair_recipe.batch_of(bank, seed, step, ratios, mine, device)
        plan = None
        if has_plan:
            with torch.set_grad_enabled(planner is not None):
                plan = (finished if planner is None else parts.planner)(mp.low_resolution(clean, factor), is_ref)
            plan = parts.generator.replace_plans(plan, dropped)
        return mp.generator_loss(parts.generator, scheduler, clean, is_ref, timestep, noise, plan)

    return training.train(parts, loss_of, steps=steps, checkpoint=work / f"{name}.pt", learning_rate=1e-3, warmup=100, decay=0.995, label=name,
                          stop_at=stop_at).eval()  # fmt: skip


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    bank = pair_recipe.make_bank(work.with_name(pair_recipe.NAME))
    finished = mp.Planner.from_pretrained(zoo.folder(pair_recipe.NAME) / "planner", torch_dtype=torch.float32, local_files_only=True).to(device).eval()
    for name in variants():
        parts = train(name, bank, finished, work, device).cpu().half()
        if rank == 0:
            training.write_folder(parts.generator, out / name, "generator")
            if parts.planner is not None:
                parts.planner.save_pretrained(out / name / "planner")
    if rank == 0:
        (out / "README.md").write_text(f"# {NAME}\n\nMade by `make model NAME={NAME}`; what toy-mardini is compared with on its page.\n")
        training.write_manifest_of(out)


if __name__ == "__main__":
    main()
