"""How the models of page 03's comparisons learned: losses on held-out clips with the three forms of identity attention, and everyone's seconds."""

import json

from ..models import zoo
from ..recipes import toy_mardini_variants as variants
from .runner import Study


def cases() -> list[dict]:
    """variant; step of its training, one for each look at the held-out loss, the last one where none is taken."""
    looks = {name: max(v.looks, 1) for name, v in variants.variants().items()}
    return [dict(variant=name, step=v.steps * look // looks[name]) for name, v in variants.variants().items() for look in range(1, looks[name] + 1)]


def measure(case: dict) -> dict[str, float]:
    """As the recipe noted it while they learned. loss: on held-out clips, empty where it is not taken. seconds: of the whole training."""
    folder = zoo.MODELS / variants.NAME
    losses, seconds = (json.loads((folder / f"{name}.json").read_text()) for name in ("losses", "seconds"))
    loss = losses[case["variant"]][str(case["step"])] if case["variant"] in losses else float("nan")
    return {"loss": loss, "seconds": seconds[case["variant"]]}


STUDY = Study(cases=cases, measure=measure, tolerance={"loss": 0, "seconds": None}, absent=(variants.NAME,))
