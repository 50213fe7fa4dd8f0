"""Masked planning for video (MarDini): a large planner reads the clip once at low resolution, a light generator denoises the missing frames.

Liu, Liu, Zhou et al., "MarDini: Masked Autoregressive Diffusion for Video Generation at Scale", 2024, arXiv 2410.20280. Neither code nor weights are
public, so this follows the text; what the text leaves open and is decided here says "(ours)".

    pipe = MarDiniPipeline(planner, generator, scheduler)              # or MarDiniPipeline.from_pretrained(folder)
    is_ref = references("interpolation", frames=9)                     # which frames are known: the first and the last
    clip = pipe(video, is_ref, num_inference_steps=25).frames          # (B, 9, C, H, W); the known frames come back bit for bit

A clip is (B, K, C, H, W), K frames of floating-point numbers; `is_ref` is bool, (K,) or (B, K), True where a frame is known (a *reference*). Tensors,
numpy arrays, lists and pandas are taken; tensors of any device give tensors there, all else gives numpy. Bad arguments raise ValueError or TypeError that
names the argument, before any work is done.

`planning` says which frames are known and what their error is, and needs torch and numpy only; `networks` has the planner, the generator and their losses,
and `pipeline` runs them. Names of all three are found here. Copy this folder, under any name, and it works.
"""

from typing import TYPE_CHECKING, Any

from .planning import CURRICULUM, TASKS, chosen, draw_references, identity_mask, low_resolution, masked_error, references, token_pairs

if TYPE_CHECKING:
    from .networks import (
        PUBLISHED_GENERATOR,
        PUBLISHED_PARAMETERS,
        PUBLISHED_PLANNERS,
        Attention,  # noqa: F401
        Generator,
        Planner,
        Readout,
        drop_plans,
        generator_loss,
        make_scheduler,
        noised,
        planner_loss,
    )
    from .pipeline import MarDiniOutput, MarDiniPipeline, roll_forward, slow_motion

__all__ = [
    "CURRICULUM", "PUBLISHED_GENERATOR", "PUBLISHED_PARAMETERS", "PUBLISHED_PLANNERS", "TASKS", "Generator", "MarDiniOutput", "MarDiniPipeline", "Planner",
    "Readout", "chosen", "draw_references", "drop_plans", "generator_loss", "identity_mask", "low_resolution", "make_scheduler", "masked_error", "noised",
    "planner_loss", "references", "roll_forward", "slow_motion", "token_pairs",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # the rest of them needs diffusers: imported when first asked for, and so is what diffusers looks for here when it loads a saved pipeline, ModelMixin
    if name in __all__ or name in ("Attention", "ModelMixin"):
        from . import networks, pipeline

        return getattr(pipeline if name in pipeline.__all__ else networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
