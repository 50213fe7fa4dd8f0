"""Page 05: mixing against its rivals, what a picture keeps at each level of noise, four uses, and words with weights.

A source is a drawn picture with two content words, one of its own family and one of another, and one noise a word, the same for every method. Everything
starts from 12 of 20 steps left, the public code's window of 0.3 to 0.6 is (6, 12), and all settings of a source run in one batch: at a level where a row
has not begun yet, nu = 0 puts it on the layout's own state; below its window nu = 1 leaves it alone. Both are exact.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from ..measures import mixing as bench
from ..methods import semantic_mixing as mixing
from ..models import judges, zoo
from ..toyworld import CATEGORIES, COLOURS, FACINGS, TEXTURES
from ..toyworld.creatures import creatures_of
from .runner import Study, has_columns, known

__all__ = [
    "BLENDS", "HALF", "LEVELS", "NU", "NUS", "PREDICTED", "STEPS", "STRENGTHS", "STUDY", "WINDOW", "WINDOWS", "come_back", "decoded", "drawn", "grid",
    "noise_to_signal", "tidy", "todo", "words",
]  # fmt: skip

SOURCES, SEED = 24, 3200
STEPS, START = 20, 12
WINDOW, NUS, NU = (6, 12), (0.25, 0.5, 0.75, 0.9), 0.75  # the public code's window; NU: for all uses, and where other windows are tried
STRENGTHS, RIVAL = (7, 8, 10, 12), 10  # steps left at which noise-and-denoise begins; RIVAL: for all uses
WINDOWS = ((4, 8), (4, 12), (9, 12))  # tried with one of the two words
PREDICTED = (1, 4)  # 0.06 to 0.20 of the steps: what counting cells predicts
BLENDS, OVERLAYS, WEIGHTS, HALF = (0.4, 0.7), (0.25, 0.5, 0.75), (-1.0, 2.0), 0.5  # HALF: nu where words are weighted
LEVELS = (2, 5, 8, 11, 14, 17, 20)  # steps left to which a picture is noised and comes back without a prompt
FURRY = ("cat", "dog", "rabbit", "fox")
UNSEEN = {"rabbit": "striped", "car": "dotted", "fish": "checkered"}  # pairs that the model was never shown, from sources of the texture
BEFORE = {"rabbit": ("cat", "dog", "fox"), "car": ("teapot", "lamp"), "fish": ("bird",)}
MIXING = ("layout", "place", "luminance", "content", "source_left", "score", "background")
OWN = ("colour", "facing", "texture")  # probability of the source's own


@dataclass(frozen=True)
class Row:
    """One picture of a source: which case it is of, and what the sampler gets for it."""

    part: str
    method: str
    word: str
    knob: float
    todo: bench.Cases  # one case
    window: tuple[int, int] = (START, START)
    nu: float = 1.0
    prompt: Tensor | str | None = None  # None: the word
    negative: str = ""


@lru_cache(maxsize=1)
def pipeline() -> StableDiffusionPipeline:
    """toy-sd with DDIM."""
    pipe = zoo.load("toy-sd")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe


@lru_cache(maxsize=1)
def pair() -> judges.Judges:
    return judges.load()


def noise_to_signal(scheduler, levels) -> np.ndarray:
    """sqrt((1 - abar) / abar) at levels k, steps left of STEPS."""
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(STEPS)
    kept = np.array([float(scheduler.alphas_cumprod[scheduler.timesteps[STEPS - k]]) for k in levels])
    return np.sqrt((1 - kept) / kept)


def options(rows: list[Row]) -> dict:
    return dict(
        num_inference_steps=STEPS, guidance_scale=zoo.entry("toy-sd").call["guidance_scale"], noise=torch.cat([row.todo.noise for row in rows])
    )  # fmt: skip


def ratio(rows: list[Row]):
    """nu(k) for a batch that starts from one level whatever the rows' own windows are."""

    def at(k: int) -> Tensor:
        values = [0.0 if k >= row.window[1] else row.nu if k > row.window[0] else 1.0 for row in rows]
        return torch.tensor(values).view(-1, 1, 1, 1)

    return at


def mixed(rows: list[Row], **more) -> Tensor:
    """(n, 3, 64, 64) in [0, 1]: one run from level START for all rows."""
    images = torch.cat([row.todo.image for row in rows]) * 2 - 1
    made = mixing.mix(pipeline(), images, k_min=0.0, k_max=START / STEPS, nu=ratio(rows), **options(rows) | more).images
    return made / 2 + 0.5


def words(source: int) -> dict[str, str]:
    """The content words of a source: near, of its own family, and far, of another."""
    near, *far = bench.other_words(CATEGORIES[source % 9], source // 9)
    return {"near": near, "far": far[(source + source // 9) % 2]}


@lru_cache(maxsize=4)
def todo(source: int, kind: str) -> bench.Cases:
    """One case. kind: near or far (plain photographs), style (a sketch), held-out (a texture that goes with the word in no training picture), or noise
    (everything said, no word)."""
    category = CATEGORIES[source % 9]
    if kind == "style":
        category, other = FURRY[source % 4], FURRY[(source % 4 + 1 + source // 4 % 3) % 4]
        caption = f"a sketch of a {category}"
    elif kind == "held-out":
        other = list(UNSEEN)[source % 3]
        caption = f"a photo of a {UNSEEN[other]} {BEFORE[other][source // 3 % len(BEFORE[other])]}"
    elif kind == "noise":
        texture, colour, facing = list(TEXTURES)[1 + (source + source // 9) % 3], list(COLOURS)[source % 8], list(FACINGS)[source // 2 % 2]
        caption, other = f"a photo of a {texture} {colour} {category} facing {facing}", category
    else:
        caption, other = f"a photo of a {category}", words(source)[kind]
    one = bench.cases([caption], [[other, other]], seed=SEED + source)  # two noises: the second is that of the far word
    return one.take([int(kind == "far")])


def single(source: int) -> str:
    """Which of its two words a source tries on other windows and with weights."""
    return ("near", "far")[source % 2]


def plain_rows(source: int) -> list[Row]:
    """All that runs from START with one prompt a row and no weights."""
    rows = []
    for kind, word in words(source).items():
        one = todo(source, kind)
        rows += [Row("compare", "noise-and-denoise", word, level / STEPS, one, (level, level)) for level in STRENGTHS]
        rows += [Row("compare", "mixing", word, nu, one, WINDOW, nu) for nu in NUS]
        rows += [Row("compare", "predicted window", word, NU, one, PREDICTED, NU)]
        between = [(w, mixing.blend_prompts(pipeline(), one.sources, one.words, weight=w)) for w in BLENDS]
        rows += [Row("compare", "prompt blend", word, w, one, prompt=text) for w, text in between]
        if kind == single(source):
            rows += [Row("windows", f"{low} to {high}", word, NU, one, (low, high), NU) for low, high in WINDOWS]
            rows += [Row("removal", "negative prompt", "", NU, one, WINDOW, NU, "", one.sources[0])]
    for use in ("style", "held-out"):
        one = todo(source, use)
        rows += [Row(use, "mixing", one.words[0], NU, one, WINDOW, NU)]
        rows += [Row(use, "noise-and-denoise", one.words[0], RIVAL / STEPS, one, (RIVAL, RIVAL))]
    return rows


def weighted_rows(source: int) -> list[Row]:
    one = todo(source, single(source))
    rows = [Row("weights", "the word", one.words[0], s, one, WINDOW, HALF) for s in WEIGHTS]
    return [*rows, Row("removal", "mixing", "", NU, one, WINDOW, NU, one.sources[0])]


@lru_cache(maxsize=2)
def sampled(source: int) -> dict[tuple, tuple[Tensor, bench.Cases]]:
    """{(part, method, word, knob): (picture, case)} of all that runs from START."""
    rows, weighted = plain_rows(source), weighted_rows(source)
    texts = [(row.todo.words[0] if row.prompt is None else row.prompt) for row in rows]
    embedded = torch.cat([mixing.embed(pipeline(), text) if isinstance(text, str) else text for text in texts])
    made = mixed(rows, prompt=embedded, negative_prompt=[row.negative for row in rows])
    # a removal is the empty prompt with the word at its end, which gets the weight -1
    texts = [row.word or row.prompt for row in weighted]
    weights = [{text: row.knob if row.part == "weights" else -1.0} for row, text in zip(weighted, texts, strict=True)]
    made = torch.cat([made, mixed(weighted, prompt=texts, word_weights=weights)])
    return {(row.part, row.method, row.word, row.knob): (image, row.todo) for row, image in zip(rows + weighted, made, strict=True)}


@lru_cache(maxsize=2)
def alone(source: int) -> dict[str, Tensor]:
    """Pictures from each word alone, by word."""
    both = [todo(source, kind) for kind in ("near", "far")]
    noise = torch.cat([one.noise for one in both])
    guidance = zoo.entry("toy-sd").call["guidance_scale"]
    made = mixing.generate(pipeline(), [one.words[0] for one in both], num_inference_steps=STEPS, guidance_scale=guidance, noise=noise).images
    return {one.words[0]: image / 2 + 0.5 for one, image in zip(both, made, strict=True)}


@lru_cache(maxsize=2)
def come_back(source: int) -> Tensor:
    """(7, 3, 64, 64): the picture noised to each of LEVELS and denoised with an empty prompt."""
    one = todo(source, "noise").take([0] * len(LEVELS))

    def begin(k: int) -> Tensor:
        return torch.tensor([float(k < level) for level in LEVELS]).view(-1, 1, 1, 1)

    options = dict(num_inference_steps=STEPS, guidance_scale=1, noise=one.noise)
    return mixing.mix(pipeline(), one.image * 2 - 1, "", k_min=0.0, k_max=1.0, nu=begin, **options).images / 2 + 0.5


def decoded(one: bench.Cases) -> Tensor:
    """The source, encoded and decoded."""
    return mixing.decode(pipeline(), mixing.encode(pipeline(), one.image * 2 - 1))[0] / 2 + 0.5


def drawn(source: int, one: bench.Cases, method: str) -> Tensor:
    """The content as the toy world draws it, in the source's pose and colour; or half of it beside half of the source."""
    other = creatures_of([f"a photo of a {one.words[0]}"], SEED + source)
    if method == "drawn content":
        return other.image[0]
    pictures = (one.pictures, other) if source % 2 else (other, one.pictures)
    return bench.halves(*pictures)[0]


def picture(case: dict) -> tuple[Tensor, bench.Cases]:
    """The picture (3, 64, 64) of a case, and what it is measured against."""
    source, key = case["source"], (case["part"], case["method"], case["word"], case["knob"])
    if case["part"] == "noise":
        one = todo(source, "noise")
        return (come_back(source)[LEVELS.index(round(case["knob"] * STEPS))] if case["knob"] else decoded(one)), one
    one = next((todo(source, kind) for kind, word in words(source).items() if word == case["word"]), None)
    match case["method"]:
        case "source":
            return decoded(one), one
        case "prompt alone":
            return alone(source)[case["word"]], one
        case "pixel blend":
            return (1 - case["knob"]) * one.image[0] + case["knob"] * alone(source)[case["word"]], one
        case "drawn content" | "drawn halves":
            return drawn(source, one, case["method"]), one
    return sampled(source)[key]


def of_source(source: int) -> list[dict]:
    """The cases of one source."""
    found = [(row.part, row.method, row.word, row.knob) for row in plain_rows(source) + weighted_rows(source)]
    for word in words(source).values():
        found += [("compare", name, word, 0.0) for name in ("source", "prompt alone", "drawn content", "drawn halves")]
        found += [("compare", "pixel blend", word, share) for share in OVERLAYS]
    found += [("noise", "no prompt", "", level / STEPS) for level in (0, *LEVELS)]
    return [dict(source=source, part=part, method=method, word=word, knob=knob) for part, method, word, knob in found]


def cases() -> list[dict]:
    return [case for source in range(SOURCES) for case in of_source(source)]


def measure(case: dict) -> dict:
    """See `measures.mixing.Measures`; source_left is its `source`. content: of the word, NaN without one. margin: of the word, or of the source without
    one, over the likeliest other category: above 0 where it is the judge's answer. colour, facing, texture: probability of the source's own. sketched: 1
    where the object is filled with paper."""
    image, one = picture(case)
    reading = pair().read(image[None].clamp(0, 1))
    found = bench.measure(pair(), image[None].clamp(0, 1), one, reading)
    row = {name: float(getattr(found, name.removesuffix("_left"))[0]) for name in MIXING}
    asked = CATEGORIES.index(one.words[0] if case["word"] else one.sources[0])
    others = reading.category[0].clone()
    others[asked] = -1
    row |= dict(margin=(reading.category[0, asked] - others.max()).item(), sketched=float(bench.sketched(image[None], reading.mask)[0]))
    if not case["word"]:
        row |= dict(content=np.nan, score=np.nan)
    shown = one.pictures
    return row | {name: getattr(reading, name)[0, int(getattr(shown, name)[one.row[0]])].item() for name in OWN}


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance=dict.fromkeys((*MIXING, "margin", *OWN), 0.03) | {"sketched": 0},
    models=("toy-sd", "toy-judge"),
    sample_seconds=0.03,  # of recorded seconds: all settings of a source run in one batch, so that most cases cost nothing there and seconds alone
)


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """The table with three columns more. kind: near or far, what the word is to the source, "" without one of these. one: whether it is the word that the
    source tries on other windows and with weights. both: 100 where a trace of content and source is seen, else 0."""
    has_columns(table, ("source", "word", "content", "source_left"))
    kinds = {(source, word): kind for source in table.source.unique() for kind, word in words(int(source)).items()}
    kind = [kinds.get(pair, "") for pair in zip(table.source, table.word, strict=True)]
    one = [k == single(int(source)) for k, source in zip(kind, table.source, strict=True)]
    return table.assign(kind=kind, one=one, both=100.0 * (np.minimum(table.content, table.source_left) >= bench.TRACE))


def grid(table: pd.DataFrame, method: str, column: str, *, part: str = "compare", kind: str | None = None) -> np.ndarray:
    """(knobs, sources): a column of a method, knobs rising, the mean over a source's words, or its near or far word alone (of a tidy table).

    Raises ValueError for a method without rows.
    """
    has_columns(table, ("part", "method", "knob", "source", column, *(("kind",) if kind is not None else ())))
    known("part", part, table.part)
    if kind is not None:
        known("kind", kind, table.kind)
    rows = table[(table.part == part) & (table.method == method)]
    rows = rows if kind is None else rows[rows.kind == kind]
    if rows.empty:
        raise ValueError(f"method {method!r} has no rows in part {part!r}; there are {', '.join(table[table.part == part].method.unique())}")
    return rows.pivot_table(index="knob", columns="source", values=column).to_numpy(float)
