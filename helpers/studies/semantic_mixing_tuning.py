"""What page 05 chooses on other pictures than it compares on: windows and ratios of mixing, and what bench both studies of that page share.

18 sources, two of each category, one content word each. Windows are counted in steps left of 25; (2, 5) is the one that counting cells predicts.
A window's ratios run in one batch; nu = 1 is plain noise-and-denoise from K_max.
"""

from functools import lru_cache

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from ..measures import mixing as bench
from ..methods import semantic_mixing as mixing
from ..models import judges, zoo
from ..toyworld import CATEGORIES
from .runner import Study

STEPS, SOURCES, SEED = 25, 18, 3100
WINDOWS = ((2, 5), (5, 10), (5, 13), (5, 16), (5, 19), (9, 13), (9, 16), (9, 19), (13, 16), (13, 19))
NUS = (0.5, 0.75, 0.9)
COLUMNS = ("layout", "place", "luminance", "content", "source", "score", "background")


@lru_cache(maxsize=1)
def pipeline() -> StableDiffusionPipeline:
    """toy-sd with DDIM."""
    pipe = zoo.load("toy-sd")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe


@lru_cache(maxsize=1)
def pair() -> judges.Judges:
    return judges.load()


def make(todo: bench.Cases, method=mixing.mix, prompt=None, **knobs) -> Tensor:
    """One picture a case, (n, 3, 64, 64) in [0, 1], from the case's own noise."""
    options = dict(num_inference_steps=STEPS, guidance_scale=zoo.entry("toy-sd").call["guidance_scale"], noise=todo.noise) | knobs
    return method(pipeline(), todo.image * 2 - 1, todo.words if prompt is None else prompt, **options).images / 2 + 0.5


def tuning_case(source: int) -> bench.Cases:
    """Source 0 .. 17 with its one word."""
    category = CATEGORIES[source % len(CATEGORIES)]
    turn = source // len(CATEGORIES)
    return bench.cases([f"a photo of a {category}"], [[bench.other_words(category, turn)[(source + turn) % 3]]], seed=SEED + source)


def ratios(K_min: int) -> tuple[float, ...]:
    """The values of nu of a window; plain noise-and-denoise belongs to every K_max once."""
    return (*NUS, 1.0) if K_min == 5 else NUS


@lru_cache(maxsize=2)
def pictures(source: int, K_min: int, K_max: int) -> Tensor:
    nus = ratios(K_min)
    todo = tuning_case(source).take([0] * len(nus))
    return make(todo, k_min=K_min / STEPS, k_max=K_max / STEPS, nu=torch.tensor(nus).view(-1, 1, 1, 1))


def cases() -> list[dict]:
    return [
        dict(source=source, K_min=K_min, K_max=K_max, nu=nu)
        for source in range(SOURCES) for K_min, K_max in WINDOWS for nu in ratios(K_min)
    ]  # fmt: skip


def measure(case: dict) -> dict:
    """See `measures.mixing.Measures`."""
    window = case["source"], case["K_min"], case["K_max"]
    made = pictures(*window)[ratios(case["K_min"]).index(case["nu"])]
    found = bench.measure(pair(), made[None], tuning_case(case["source"]))
    return {name: float(getattr(found, name)[0]) for name in COLUMNS}


STUDY = Study(
    cases=cases, measure=measure, tolerance=dict.fromkeys(COLUMNS, 0.02), models=("toy-sd", "toy-judge"), sample_seconds=1,
)  # fmt: skip
