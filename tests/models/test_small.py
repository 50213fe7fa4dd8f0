"""The small models: their refusals come before any weight is drawn, and random numbers elsewhere are left alone."""

import pytest
import torch

from helpers.models import small


@pytest.mark.parametrize("call, error, message", [
    (lambda: small.video_transformer("Sora"), ValueError, "name must be one of 'Latte', .*, got 'Sora'"),
    (lambda: small.video_transformer(3), TypeError, "name must be one of"), (lambda: small.video_pipeline("latte"), ValueError, "name must be one of"),
    (lambda: small.video_transformer("Wan", 0), ValueError, "calls must be a whole number >= 1, got 0"),
    (lambda: small.video_pipeline("Wan", 2.5), TypeError, "num_calls must be a whole number >= 1, got 2.5"),
    (lambda: small.image_pipeline("0"), TypeError, "seed must be a whole number"),
    (lambda: small.pixel_pipeline(2**63), ValueError, "seed must be a whole number"),
    (lambda: small.clip_tokenizer([], 8), ValueError, "words must be a text or a list"),
    (lambda: small.clip_tokenizer(["a", 3], 8), TypeError, "words must be"),
    (lambda: small.clip_tokenizer(["a", "Cat"], 8), ValueError, "words must be of the letters a to z, got 'Cat'"),
    (lambda: small.clip_tokenizer(["a", ""], 8), ValueError, "words must be of the letters a to z, got ''"),
    (lambda: small.clip_tokenizer(["cat"], 2), ValueError, "length must be a whole number >= 3, got 2"),
])  # fmt: skip
def test_refusals(call, error, message):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        call()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tokenizer_knows_its_words_whole():
    tokenizer = small.clip_tokenizer(["bee", "see"], 7)
    assert [len(tokenizer(word).input_ids) - 2 for word in ("bee", "see", "be", "toe")] == [1, 1, 2, 3]
    assert tokenizer.model_max_length == 7 and len(small.clip_tokenizer("bee", 3)("bee").input_ids) == 3


def test_a_transformer_checks_what_it_is_called_with():
    net = small.video_transformer("Wan", 4)
    for arguments, error, name in (((net.start, 0), ValueError, "n"), ((net.start, 5), ValueError, "n"), ((net.start, 1.5), TypeError, "n"),
                                   ((net.start[0], 1), ValueError, "latents"), ((net.start.long(), 1), TypeError, "latents"), (("a", 1), TypeError, "latents"),
                                   ((net.start, 1, net.text[:1]), ValueError, "text"), ((net.start, 1, "a red disc"), TypeError, "text")):  # fmt: skip
        with pytest.raises(error, match=f"^{name} must be"):
            net.call(*arguments)
    for options, error, name in ((dict(calls=5), ValueError, "calls"), (dict(calls=0), ValueError, "calls"), (dict(context=3), TypeError, "context"),
                                 (dict(text=torch.zeros(2, 5)), ValueError, "text")):  # fmt: skip
        with pytest.raises(error, match=f"^{name} must be"):
            net.sample(**options)
    with torch.no_grad():
        first = net.start - 0.1 * net.call(net.start, 1)
    assert torch.equal(net.sample(1), first) and torch.equal(net.sample(4), net.sample()) and not torch.equal(net.sample(2), first)
    small_pipe = small.video_pipeline("Wan", 2)
    with pytest.raises(TypeError, match="seed must be a whole number"):
        small_pipe.call(seed="0")
