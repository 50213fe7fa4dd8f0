"""Page 02: what MoReg's score reads, and what MoReg buys at the cost of plain AdaCache, on two models.

Every object (colour, shape, direction) is asked to stay still, to move slowly, to move fast, and to be passed by a panning camera, always from the same
noise: within an object only the words differ. Codebooks and pivots come from clips of other prompts (`motion_calibration`).
"""

from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..arguments import integer
from ..measures import metrics
from ..methods import caching_schedules as ada
from ..methods import motion_regularization as moreg
from ..recipes import toy_latte
from ..toyworld import analysers, shapes
from . import caching_calibration as calibration
from . import motion_calibration as settings
from .runner import Study, has_columns, known

__all__ = [
    "CAP", "EARLY", "FEW", "LOOKS", "MOTIONS", "OBJECTS", "STUDY", "TRAPS", "TRAP_LOOKS", "at_same_cost", "column", "early", "given_clip", "noised",
    "probes_of", "prompt_of", "uncached",
]  # fmt: skip

MOTIONS = {"still": "a {} stays still", "slow": "a {} moves {} slowly", "fast": "a {} moves {} fast", "camera": "the camera pans {1} fast over a {0}"}
SWAPPED = {"still": "fast", "fast": "still"}  # whose words are tried on whose latents
OBJECTS = {"toy-latte": 24, "toy-cogvideox": 8}
FEW = 4  # objects of the variants that only the table shows
WORDLESS = 32  # clips that no sentence decides
NO_WORDS = "(no words)"
LOOKS = (1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 24, 28, 30)  # calls at which scores are kept
EARLY = tuple(n for n in LOOKS if 2 <= n <= 10)  # a third of the calls
TRAPS = {"still": "still", "noisy frames": "still", "pan": "camera", "fast": "fast"}  # clips of the toy world, noised and shown to the model
TRAP_LOOKS = (3, 10, 20, 28)
READINGS = ("mu", "with_words", "without_words", "swapped")
COLUMNS = ("calls", "early_calls", "psnr", "shift", "right", "speed", "changed", *(f"{name}_{n}" for name in READINGS for n in LOOKS))
COLUMNS += tuple(f"shown_{n}" for n in TRAP_LOOKS)
CAP = 60.0  # dB; there clips differ by a quarter of a grey level of 8 bits, and equal ones would be infinitely close


@lru_cache
def objects() -> tuple[tuple[str, str], ...]:
    """(colour and shape, direction): different pairs, none of whose sentences calibrated anything."""
    pairs = [f"{colour} {shape}" for colour in toy_latte.COLOURS for shape in toy_latte.SHAPES if (colour, shape) not in toy_latte.HELD_OUT]
    order = np.random.default_rng(12).permutation(len(pairs))
    found, known = [(pairs[i], shapes.DIRECTIONS[k % 8]) for k, i in enumerate(order)], set(calibration.prompts())
    return tuple(o for o in found if not {text.format(*o) for text in MOTIONS.values()} & known)


def prompt_of(motion: str, index: int) -> str:
    """The sentence of a motion about the object of a number."""
    known("motion", motion, MOTIONS)
    return MOTIONS[motion].format(*objects()[integer("index", index, low=0, high=len(objects()) - 1)])


def probes_of(model: str, latents: list[Tensor], timesteps: list[int], text: Tensor) -> tuple[Tensor, ...]:
    """The probe residuals of single calls: latents as the transformer takes them, one text for all."""
    here = calibration.bench(model)
    text = text.expand(len(latents[0]), -1, -1)
    with ada.apply_adacache(here.transformer, ada.Codebook((), (1,)), len(latents), record=True) as handle, torch.no_grad():
        for x, t in zip(latents, timesteps, strict=True):
            here.transformer(hidden_states=x, encoder_hidden_states=text, timestep=torch.tensor([t]).expand(len(x)), return_dict=False)
    return handle.last.probes


def score(model: str, probe: Tensor, half: int | None = None) -> float:
    """mu of a probe residual; half: 0 for the guidance half without words, 1 for the other, None for both together, as in the official code."""
    layout = settings.layout(model)
    frames = moreg.split_frames(probe, layout)
    return float(moreg.motion_score(frames if half is None else frames[half : half + 1]))


@lru_cache(maxsize=4)
def uncached(model: str, prompt: str, seed: int) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor], list[int]]:
    """(clip, probes, latents, timesteps) of a run of all calls; the last two as the transformer got them at LOOKS, one guidance half."""
    here, seen, times = calibration.bench(model), [], []
    text = here.encode(prompt) if prompt != NO_WORDS else here.encode("a red disc stays still")[:1].expand(2, -1, -1)

    def look(module, args, kwargs):
        seen.append(kwargs["hidden_states"][:1])
        times.append(int(kwargs["timestep"][0]))

    hook = here.transformer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with ada.apply_adacache(here.transformer, ada.Codebook((), (1,)), here.num_calls, record=True) as handle:
            clip = here.decode(here.denoise(text, seed))
    finally:
        hook.remove()
    return clip, handle.last.probes, [seen[n - 1] for n in LOOKS], [times[n - 1] for n in LOOKS]


def given_clip(kind: str, index: int) -> tuple[Tensor, str]:
    """A clip (T, 3, 32, 32) of the toy world and its caption: "still", the same with noise of its own on every frame, "pan" or "fast"."""
    caption = prompt_of(TRAPS[kind], index)
    clip = shapes.clips_of([caption], seed=index).render().video[0]
    if kind == "noisy frames":
        clip = (clip + 0.1 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(index))).clamp(0, 1)
    return clip, caption


def noised(model: str, clip: Tensor, call: int, seed: int) -> tuple[Tensor, int]:
    """(latents, timestep) of a clip (T, 3, H, W) in [0, 1] with the noise of a call: two guidance halves, as the transformer takes them."""
    here = calibration.bench(model)
    pipe = here.pipe
    pipe.scheduler.set_timesteps(here.num_calls)
    t = pipe.scheduler.timesteps[call - 1]
    with torch.no_grad():
        x0 = (pipe.vae.encode(clip * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor).transpose(0, 1)[None]
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    x = pipe.scheduler.add_noise(x0, noise, t[None]).expand(2, -1, -1, -1, -1)
    return x.transpose(1, 2) if here.frames_first else x, int(t)


def cases() -> list[dict]:
    def case(model, method, budget, motion, prompt, seed):
        return dict(model=model, method=method, budget=budget, motion=motion, prompt=prompt, seed=seed)

    def of_objects(model, count, methods):
        own = [(index, motion, prompt_of(motion, index)) for index in range(count) for motion in MOTIONS]
        return [case(model, method, budget, motion, prompt, index) for index, motion, prompt in own for method, budget in methods]

    main = [("uncached", 30.0), ("AdaCache", 11.5), ("AdaCache", 14.0), ("MoReg", 13.53)]
    dear = [case("toy-latte", "AdaCache", 20.0, "fast", prompt_of("fast", i), i) for i in range(OBJECTS["toy-latte"])]
    shown = [case("toy-latte", f"shown: {kind}", 0.0, TRAPS[kind], prompt_of(TRAPS[kind], i), i) for i in range(8) for kind in TRAPS]
    wordless = [case("toy-latte", "uncached", 30.0, "none", NO_WORDS, 1000 + seed) for seed in range(WORDLESS)]
    variants = [(variant, 13.53) for variant in settings.VARIANTS if variant != "MoReg"]
    latte, cogvideox = (of_objects(model, count, main) for model, count in OBJECTS.items())
    return [*latte, *shown, *wordless, *dear, *cogvideox, *of_objects("toy-latte", FEW, variants)]


def measure(case: dict) -> dict:
    """calls: computed ones; early_calls: those among the first ten. psnr (dB): to the uncached clip, at most CAP. shift (px): mean distance of the
    object's centre from where the uncached clip has it. right: 1 when everything that the prompt says is right. speed (px a frame): of the object
    in the clip; changed: mean absolute change of its pixels from frame to frame. mu_n: score at call n of both guidance halves; with_words_n,
    without_words_n: of one; swapped_n: of the half with words, these being another prompt's (see SWAPPED)."""
    model, method, prompt, seed = case["model"], case["method"], case["prompt"], case["seed"]
    row = dict.fromkeys(COLUMNS, np.nan)
    if method.startswith("shown: "):
        clip, caption = given_clip(method.removeprefix("shown: "), seed)
        inputs = [noised(model, clip, n, seed) for n in TRAP_LOOKS]
        here = calibration.bench(model)
        probes = probes_of(model, [x for x, _ in inputs], [t for _, t in inputs], here.encode(caption))
        return row | {f"shown_{n}": score(model, probe) for n, probe in zip(TRAP_LOOKS, probes, strict=True)}
    whole, probes, latents, timesteps = uncached(model, prompt, seed)
    if method == "uncached":
        clip, found = whole, {"mu": None, "without_words": 0, "with_words": 1}
        row |= {f"{name}_{n}": score(model, probes[n - 1], half) for name, half in found.items() for n in LOOKS}
        row |= dict(calls=30, early_calls=10)
        if case["motion"] in SWAPPED:
            words = calibration.bench(model).encode(prompt_of(SWAPPED[case["motion"]], seed))[1:]
            row |= {f"swapped_{n}": score(model, probe) for n, probe in zip(LOOKS, probes_of(model, latents, timesteps, words), strict=True)}
    else:
        here, (book, regulariser) = calibration.bench(model), settings.setting(model, method, case["budget"])
        with ada.apply_adacache(here.transformer, book, here.num_calls, regulariser=regulariser) as handle:
            clip = here.decode(here.denoise(here.encode(prompt), seed))
        computed = handle.last.computed
        row |= dict(calls=len(computed), early_calls=sum(n <= 10 for n in computed), psnr=min(CAP, metrics.psnr(whole, clip)))
        paths = analysers.analyse_clips(torch.stack([whole, clip])).position
        row["shift"] = float((paths[0] - paths[1]).norm(dim=-1).nanmean())
    reading = analysers.analyse_clips(clip[None])
    row |= dict(speed=float(reading.velocity[0].norm()), changed=float((clip[1:] - clip[:-1]).abs().mean()))
    return row | ({} if prompt == NO_WORDS else dict(right=float(analysers.judge(clip[None], [prompt]).all[0])))


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"calls": 0, "early_calls": 0, "psnr": 0.05, "shift": 0.02, "right": 0, "speed": 0.01, "changed": (1e-5, 1e-3)}
    | {f"{name}_{n}": (1e-4, 1e-3) for name in READINGS for n in LOOKS}
    | {f"shown_{n}": (1e-4, 1e-3) for n in TRAP_LOOKS},
    models=("toy-latte", "toy-cogvideox"),
    files=("studies/caching_calibration.csv", "studies/motion_calibration.csv"),
    sample_seconds=4,
)


def column(table: pd.DataFrame, motion: str, name: str, *, model: str = "toy-latte", method: str = "uncached", budget: float | None = None) -> np.ndarray:
    """A column over the objects, in their order. Raises ValueError where there are no such rows."""
    has_columns(table, ("model", "method", "motion", "seed", "budget", name))
    for argument, value in (("model", model), ("method", method), ("motion", motion)):
        known(argument, value, table[argument])
    rows = table[(table.model == model) & (table.method == method) & (table.motion == motion)]
    rows = rows if budget is None else rows[rows.budget == budget]
    if rows.empty or rows.seed.duplicated().any():
        raise ValueError(f"one row an object is expected for {model}, {method}, {motion}, budget {budget}; got {len(rows)}")
    return rows.sort_values("seed")[name].to_numpy(float)


def early(table: pd.DataFrame, reading: str) -> pd.Series:
    """Mean score of a reading over the early calls, row by row."""
    columns = [f"{reading}_{n}" for n in EARLY]
    return has_columns(table, columns)[columns].mean(axis=1, skipna=False)


def at_same_cost(
    table: pd.DataFrame, name: str = "psnr", *, model: str = "toy-latte", variant: str = "MoReg", motions=tuple(MOTIONS), budgets=(11.5, 14.0)
) -> tuple[np.ndarray, np.ndarray]:
    """(a column of a variant, the same of plain AdaCache at exactly its mean cost), both (objects, motions), over the objects that the variant has.

    Between its two budgets every clip of AdaCache counts with a mix of both, in the one proportion that makes the mean cost over all these clips equal.
    Raises ValueError for missing rows and where the variant costs less than the first or more than the second budget.
    """

    def grid(method: str, column_name: str, budget: float | None) -> np.ndarray:
        return np.stack([column(table, m, column_name, model=model, method=method, budget=budget) for m in motions], axis=1)

    spent = grid(variant, "calls", None)
    low, high = (grid("AdaCache", "calls", budget)[: len(spent)] for budget in budgets)
    share = (spent.mean() - low.mean()) / (high.mean() - low.mean())
    if not 0 <= share <= 1:
        raise ValueError(f"{variant} computes {spent.mean():.2f} calls on {model}, AdaCache {low.mean():.2f} to {high.mean():.2f} with budgets {budgets}")
    first, second = (grid("AdaCache", name, budget)[: len(spent)] for budget in budgets)
    return grid(variant, name, None), (1 - share) * first + share * second
