"""Odd and wrong inputs for semantic mixing, one argument at a time."""

import diffusers
import pytest
import torch

from helpers.methods import semantic_mixing as sm
from helpers.models import small
from tests.inputs.harness import Kind, Trial, array, check, choice, coverage, fixed, flag, function, generator, instance, integer, optional, real, text, texts

torch.set_num_threads(1)
PIPE = small.image_pipeline()
IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
NOISE, MORE = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
EMBEDS = sm.embed(PIPE, ["cat", "dog"])
TWO = dict(num_inference_steps=integer(2, low=1, high=1000), guidance_scale=real(1.5, low=0))
IMAGES = array(IMAGE, low=-1, high=1, free=(0,), grow=(0,), tolerance=1e-3)
NOISES = array(NOISE, free=(0,), tolerance=1e-3)
PROMPT = texts(["red cat", "a cat"], fixed_length=False)


def lawful(kind, *words):
    """Without the odd values that are right here, by the words for them."""
    return Kind(kind.make, lambda: kind.odd().filter(lambda odd: odd.words not in words))


def ddim(steps=4):
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    scheduler.set_timesteps(steps)
    return scheduler


def weighted(**arguments):
    with sm.reweight_words(**arguments) as words:
        return words.weights


# a list is a map of nu, and no weights at all are weights of one
NU = lawful(real(0.5, low=0, high=1, wrong=[torch.full((3, 1, 1, 1), 0.5), lambda k: 2.0, lambda k: None], either=[lambda k: 0.5]), "a list")
WORDS = dict(
    word_weights=lawful(
        optional(instance(lambda: {"cat": 2.0}, wrong=[{"cow": 1.0}, {"cat": float("nan")}, {"cat": None}, {3: 1.0}, [{"cat": 1.0}] * 3])), "a dict"
    )
)
OPTIONS = dict(trace=flag(False), allow_multistep=flag(False), negative_prompt=text(""), inversion_prompt=text("a"), remove=optional(text("dog")))
TRIALS = [
    Trial(sm.levels, num_inference_steps=integer(50, low=1), k_min=real(0.3, low=0, high=1), k_max=real(0.6, low=0, high=1), variant=choice("paper"),
          names={"k_max": ("k_min",), "k_min": ("k_max",), "num_inference_steps": ("k_max",)}),
    Trial(sm.blend, content=array(NOISE.numpy()), layout=array(MORE.numpy()), nu=NU, names={"content": ("layout",)}, follows="content"),
    Trial(sm.blend, trial_id="blend by a map", content=fixed(NOISE), layout=fixed(MORE), nu=array(NOISE.sigmoid(), low=0, high=1, free=(0,),
          skip=("an axis fewer",))),
    Trial(sm.noised_layout, scheduler=instance(ddim, wrong=[diffusers.HeunDiscreteScheduler()]), x0=array(NOISE), noise=array(MORE),
          wanted=fixed([2, 4]), names={"x0": ("noise",)}, follows="x0"),
    Trial(lambda k: sm.noised_layout(ddim(), NOISE, MORE, wanted=[k]), public="noised_layout", trial_id="levels wanted", k=integer(2, low=1, high=4),
          names={"k": ("wanted",)},
          after=lambda states: list(states.values())),
    Trial(sm.denoise, slow=0.5, unet=function(PIPE.unet), scheduler=instance(ddim), start=array(NOISE, tolerance=1e-3),
          embeds=array(EMBEDS.repeat(2, 1, 1), free=(1,), grow=(1,), tolerance=1e-3),
          level=integer(2, low=1, high=4), guidance_scale=real(1.5, low=0), layout=instance(lambda: {1: NOISE, 2: NOISE}),
                nu=lawful(optional(instance(lambda: {1: 0.5})), "a dict"), variant=choice("paper"),
          words=optional(instance(lambda: sm.WordWeights(torch.ones(1, 10)))), callback=optional(function(print)), names={"start": ("embeds",
                r"layout"), "level": ("nu",)}, follows="start"),
    Trial(sm.WordWeights, weights=array(torch.ones(2, 10), free=(0, 1), grow=(0, 1)), guided=flag(True), levels=optional(instance(lambda: [1, 2],
          wrong=[[0], [1.5]])),
          after=lambda words: words.weights),
    Trial(weighted, public="reweight_words", trial_id="reweight_words", pipe=instance(lambda: PIPE), prompt=PROMPT, weights=WORDS["word_weights"],
          guided=optional(flag(True)),
          names={"prompt": ("weights",)}),
    Trial(sm.encode, pipe=instance(lambda: PIPE), image=IMAGES, latent=choice("mean"), generator=generator(many=2), follows="image"),
    Trial(sm.encode, trial_id="encode a sample", pipe=fixed(PIPE), image=array(IMAGE, low=-1, high=1, tolerance=1e-3, free=(0,), grow=(0,)),
          latent=choice("sample"), generator=generator(many=2)),
    Trial(sm.decode, pipe=instance(lambda: PIPE), latents=array(NOISE, free=(0,), grow=(0,), tolerance=1e-3, skip=("one fewer along axis 2",
          "one more along axis 2", "one fewer along axis 3", "one more along axis 3")), follows="latents"),
    Trial(sm.embed, pipe=instance(lambda: PIPE), prompt=PROMPT),
    Trial(sm.blend_prompts, pipe=instance(lambda: PIPE), first=texts(["cat", "dog"]), second=texts(["red", "blue"]), weight=real(0.5, low=0, high=1),
          names={"first": ("second",)}),
    Trial(sm.mix, slow=0.5, pipe=instance(lambda: PIPE), image=array(IMAGE, low=-1, high=1, tolerance=1e-3, free=(0,)), prompt=PROMPT, k_min=real(0.0,
          low=0, high=1), k_max=real(1.0, low=0, high=1), nu=NU, variant=choice("paper"), layout=choice("noise"),
          latent=choice("mean"), word_levels=optional(instance(lambda: [1], wrong=[[3], [0], [1.5], "12"])), generator=generator(many=2),
                noise=optional(NOISES), follows="image",
          names={"image": ("noise", "prompt"), "num_inference_steps": ("k_max", "word_levels"), "k_min": ("k_max",), "k_max": ("k_min",
                "word_levels")}, **TWO, **WORDS, **OPTIONS),
    Trial(sm.mix, slow=0.3, trial_id="mix with embeddings", pipe=fixed(PIPE), image=fixed(IMAGE), prompt=lawful(array(EMBEDS, tolerance=1e-3,
          free=(0,)), "a text"), latent=choice("sample"), generator=generator(many=2),
          nu=array(torch.full((2, 1, 8, 8), 0.3), low=0, high=1, grow=(), free=(0,), broadcast=True, skip=("one more along axis 1",)),
                layout=choice("noise"), k_min=fixed(0.0), k_max=fixed(1.0), **TWO),
    Trial(sm.mix, slow=0.3, trial_id="mix by inversion", pipe=fixed(PIPE), image=array(IMAGE[:1], low=-1, high=1, tolerance=1e-3, grow=(0,)),
          prompt=fixed("cat"), layout=choice("ddim_inversion"), inversion_prompt=text("red"),
          k_min=fixed(0.0), k_max=fixed(1.0), **TWO),
    Trial(sm.img2img, slow=0.3, pipe=instance(lambda: PIPE), image=array(IMAGE, low=-1, high=1, tolerance=1e-3, free=(0,)), prompt=PROMPT,
          level=integer(1, low=1, high=2), noise=NOISES, trace=flag(True), follows="image",
          names={"image": ("noise", "prompt"), "num_inference_steps": ("level",), "level": ("strength",)}, **TWO),
    Trial(sm.img2img, slow=0.3, trial_id="img2img by strength", pipe=fixed(PIPE), image=fixed(IMAGE), prompt=fixed("cat"), strength=real(0.5, low=0,
          high=1), generator=generator(many=2), **TWO,
          names={"num_inference_steps": ("strength",), "strength": ("level",)}),
    Trial(sm.generate, slow=0.3, pipe=instance(lambda: PIPE), prompt=PROMPT, noise=array(NOISE, tolerance=1e-3, free=(0,), skip=("nothing in it",)),
          negative_prompt=texts(["", "red"]), trace=flag(False), follows="noise",
          names={"prompt": ("word_weights",), "noise": ("prompt",)}, **TWO, **WORDS),
    Trial(sm.generate, slow=0.3, trial_id="generate by a seed", pipe=fixed(PIPE), prompt=lawful(array(EMBEDS, tolerance=1e-3, free=(0,)), "a text"),
          generator=generator(many=2), follows="prompt", **TWO),
    Trial(sm.mix_text, slow=0.3, pipe=instance(lambda: PIPE), layout_prompt=PROMPT, prompt=texts(["dog", "a dog"]),
          layout_states=choice("trajectory"), k_min=real(0.0, low=0, high=1), k_max=real(1.0, low=0, high=1), nu=NU,
          variant=choice("community"), generator=generator(many=2), noise=optional(NOISES), allow_multistep=flag(True), trace=flag(True),
                names={"num_inference_steps": ("k_max",), "k_min": ("k_max",), "k_max": ("k_min",), "noise": ("prompt",),
                "layout_prompt": ("prompt",)}, **TWO),
    Trial(sm.mix_text, slow=0.3, trial_id="mix_text by noising again", pipe=fixed(PIPE), layout_prompt=fixed("cat"), prompt=fixed("dog"),
          layout_states=choice("renoise"), noise=fixed(NOISE), renoise=NOISES, k_min=fixed(0.0), k_max=fixed(1.0), **TWO),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(sm, TRIALS) == set()
