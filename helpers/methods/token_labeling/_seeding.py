"""A start that is drawn from a generator of one's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """What is drawn inside comes from torch's own generator, or where another one is given, from a seed that is drawn from that; torch's is then left alone."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    drawn = torch.get_default_device().type
    cards = range(torch.cuda.device_count()) if drawn == "cuda" else ()
    with torch.random.fork_rng(devices=cards):
        (torch.default_generator if drawn in ("cpu", "meta") else torch).manual_seed(seed)  # torch.manual_seed reaches the accelerators' generators too
        yield
