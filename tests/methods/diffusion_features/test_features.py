"""Maps out of a pipeline against full forward passes, single calls put together, worked numbers and refusals."""

import math

import accelerate
import diffusers
import numpy as np
import pandas as pd
import pytest
import torch

from helpers.methods.diffusion_features import block_layers, dift, dift_blocks, dift_grid, dift_layers, layer_names, match, noise_to_signal, pck
from helpers.models import small as small_models
from tests.accelerator import DEVICE, Accelerator, near, offloads

torch.set_num_threads(1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def pictures(count, height=16, width=16):
    return torch.rand(count, 3, height, width, generator=seeded(7)) * 2 - 1


@pytest.fixture(scope="module")
def latent():
    return small_models.image_pipeline()


@pytest.fixture(scope="module")
def pixel():
    return small_models.pixel_pipeline()


def hooks(pipe):
    models = [pipe.unet, *([pipe.vae] if hasattr(pipe, "vae") else [])]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for model in models for module in model.modules())


class Watch:
    """Records what the U-Net is given and counts the calls of its up-blocks."""

    def __init__(self, unet):
        self.inputs, self.calls, self.unet = [], [0] * len(unet.up_blocks), unet

    def __enter__(self):
        self.handles = [self.unet.register_forward_pre_hook(lambda module, args, kwargs: self.inputs.append(kwargs), with_kwargs=True)]
        for n, block in enumerate(self.unet.up_blocks):
            self.handles.append(block.register_forward_pre_hook(lambda *_, n=n: self.calls.__setitem__(n, self.calls[n] + 1)))
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def full_outputs(unet, names, inputs):
    """Outputs of modules by name in a forward pass that runs to its end."""
    seen = {}
    handles = [unet.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out)) for name in names]
    with torch.no_grad():
        assert unet(**inputs).sample.isfinite().all()
    for handle in handles:
        handle.remove()
    return {name: out[0] if isinstance(out, tuple) else out for name, out in seen.items()}


@pytest.mark.parametrize("kind", ["latent", "pixel"])
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_early_exit_gives_the_block_of_a_full_pass_and_never_runs_the_rest(kind, n, request):
    pipe = request.getfixturevalue(kind)
    before = hooks(pipe)
    with Watch(pipe.unet) as watch:
        found = dift(pipe, pictures(2), t=100, n=n, ensemble=1, generator=seeded())
    assert watch.calls == [1] * (n + 1) + [0] * (3 - n)
    assert torch.equal(found, full_outputs(pipe.unet, [f"up_blocks.{n}"], watch.inputs[0])[f"up_blocks.{n}"])
    assert hooks(pipe) == before and not found.requires_grad


@pytest.mark.parametrize("kind", ["latent", "pixel"])
def test_layers_are_those_of_a_full_pass_and_blocks_end_with_one(kind, request):
    pipe = request.getfixturevalue(kind)
    names = layer_names(pipe.unet)
    with Watch(pipe.unet) as watch:
        layers = dift_layers(pipe, pictures(2), t=100, ensemble=1, generator=seeded())
    full = full_outputs(pipe.unet, names, watch.inputs[0])
    assert list(layers) == list(range(len(names))) and all(torch.equal(layers[i], full[name]) for i, name in enumerate(names))
    blocks = dift_blocks(pipe, pictures(2), t=100, ensemble=1, generator=seeded())
    assert all(torch.equal(blocks[n], layers[i]) for n, i in block_layers(pipe.unet).items())
    with Watch(pipe.unet) as watch:
        some = dift_layers(pipe, pictures(2), t=100, layers=[names[2], 0], ensemble=1, generator=seeded())
    assert torch.equal(some[names[2]], layers[2]) and torch.equal(some[0], layers[0]) and watch.calls[2:] == [0, 0]


def test_a_layer_of_the_encoder_is_what_it_hands_over(latent):
    name = "down_blocks.1.attentions.0" if getattr(latent.unet.down_blocks[1], "attentions", None) else "down_blocks.1.resnets.0"
    with Watch(latent.unet) as watch:
        found = dift_layers(latent, pictures(2), t=100, layers=[name, "down_blocks.0.downsamplers.0"], ensemble=1, generator=seeded())
    full = full_outputs(latent.unet, list(found), watch.inputs[0])
    assert all(torch.equal(found[key], full[key]) for key in found) and watch.calls == [0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"names of layer_names\(unet\), got 'down_blocks.9.resnets.0'"):
        dift_layers(latent, pictures(2), t=100, layers=["down_blocks.9.resnets.0"], ensemble=1, generator=seeded())


def test_blocks_and_grid_are_single_calls_put_together(latent):
    images, options = pictures(3), dict(ensemble=2, latent="mean", noise=randn(3, 2, 4, 8, 8))
    with Watch(latent.unet) as watch:
        grid = dift_grid(latent, images, "a cat", times=(5, 700), blocks=(2, 0), **options)
    assert watch.calls == [2, 2, 2, 0]  # one pass a timestep
    assert set(grid) == {(5, 2), (5, 0), (700, 2), (700, 0)}
    for (t, n), found in grid.items():
        assert torch.equal(found, dift(latent, images, "a cat", t=t, n=n, **options))
    assert torch.equal(dift_blocks(latent, images, "a cat", t=5, blocks=(2,), **options)[2], grid[5, 2])


def test_noise_is_added_as_the_scheduler_does(latent, pixel):
    for pipe, channels, side in ((latent, 4, 8), (pixel, 3, 16)):
        images, noise = pictures(2), randn(2, 1, channels, side, side)
        with Watch(pipe.unet) as watch, torch.no_grad():
            dift(pipe, images, t=261, n=0, ensemble=1, noise=noise, latent="mean")
            x0 = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor if pipe is latent else images
        torch.testing.assert_close(watch.inputs[0]["sample"], pipe.scheduler.add_noise(x0, noise[:, 0], torch.tensor([261, 261])))
        assert watch.inputs[0]["timestep"] == 261
        if pipe is latent:
            torch.testing.assert_close(watch.inputs[0]["sample"], 0.8098 * x0 + 0.5868 * noise[:, 0], atol=3e-4, rtol=0)


def test_the_posterior_is_sampled_for_every_member(latent):
    images = pictures(2)
    with Watch(latent.unet) as watch:
        dift(latent, images, t=0, n=0, ensemble=3, noise=torch.zeros(3, 4, 8, 8), generator=seeded(), batch=6)
    x0 = watch.inputs[0]["sample"].view(2, 3, 4, 8, 8) / math.sqrt(0.99915)
    with torch.no_grad():
        posterior = latent.vae.encode(images).latent_dist
    drawn = (x0 / latent.vae.config.scaling_factor - posterior.mean[:, None]) / posterior.std[:, None]
    assert 0.8 < float(drawn.std()) < 1.2 and len(drawn.flatten(0, 1)[:, 0, 0, 0].unique()) == 6
    mean = dift(latent, images, t=0, n=0, generator=seeded(), latent="mean")
    assert not torch.allclose(mean, dift(latent, images, t=0, n=0, generator=seeded()))


def test_two_members_are_the_mean_of_two_calls(latent):
    z, options = randn(2, 4, 8, 8), dict(t=300, n=1, latent="mean")
    one, two = (dift(latent, pictures(2), ensemble=1, noise=z[i : i + 1], **options) for i in (0, 1))
    torch.testing.assert_close(dift(latent, pictures(2), ensemble=2, noise=z, **options), (one + two) / 2, atol=1e-5, rtol=1e-5)


def test_variance_falls_as_one_over_the_ensemble(pixel):
    same = pictures(1).expand(64, -1, -1, -1)
    variance = {}
    for e in (1, 8):
        maps = dift(pixel, same, t=400, n=0, ensemble=e, generator=[seeded(1000 * e + i) for i in range(64)], batch=64)
        variance[e] = float(maps.var(0).mean())
    assert abs(variance[8] / variance[1] - 0.125) < 0.05


def test_chunks_and_neighbours_change_nothing(latent):
    images, prompts = pictures(5), ["a cat", "", "a dog", "a cat", "a photo of a rabbit"]
    whole = dift(latent, images, prompts, t=50, n=2, ensemble=3, generator=seeded(), batch=99)
    for batch in (1, 4):
        torch.testing.assert_close(dift(latent, images, prompts, t=50, n=2, ensemble=3, generator=seeded(), batch=batch), whole, atol=1e-5, rtol=1e-5)
    first = dift(latent, images[:2], prompts[:2], t=50, n=2, ensemble=3, generator=seeded())
    torch.testing.assert_close(first, whole[:2], atol=1e-5, rtol=1e-5)
    own = dift(latent, images, prompts, t=50, n=2, ensemble=3, generator=[seeded(i) for i in range(5)])
    alone = dift(latent, images[3:4], prompts[3], t=50, n=2, ensemble=3, generator=seeded(3))
    torch.testing.assert_close(alone, own[3:4], atol=1e-5, rtol=1e-5)
    with Watch(latent.unet) as few, Watch(latent.unet) as many:
        dift(latent, images[:1], t=50, n=0, ensemble=2, generator=seeded())
        dift(latent, images[:1], t=50, n=0, ensemble=4, generator=seeded())
    assert torch.equal(few.inputs[0]["sample"], many.inputs[1]["sample"][:2])  # a larger ensemble keeps the members of a smaller one


def test_the_prompt_reaches_the_features(latent):
    cat, dog = (dift(latent, pictures(1), prompt, t=50, n=3, generator=seeded()) for prompt in ("a cat", "a dog"))
    assert not torch.allclose(cat, dog)


def test_image_to_image_pipelines_and_other_schedulers_serve(latent):
    other = diffusers.StableDiffusionImg2ImgPipeline(**latent.components, requires_safety_checker=False)
    wanted = dift(latent, pictures(1), "a cat", t=50, n=1, generator=seeded())
    assert torch.equal(dift(other, pictures(1), "a cat", t=50, n=1, generator=seeded()), wanted)
    config = latent.scheduler.config
    for name in ("PNDMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        other.scheduler = getattr(diffusers, name).from_config(config)
        assert torch.equal(dift(other, pictures(1), "a cat", t=50, n=1, generator=seeded()), wanted)


def test_dtype_follows_the_pipeline():
    pipe = small_models.pixel_pipeline()
    pipe.unet.double()
    assert dift(pipe, pictures(1), t=3, n=0, ensemble=2, generator=seeded()).dtype == torch.float64
    pipe.unet.bfloat16()
    rough = dift(pipe, pictures(1), t=3, n=0, ensemble=2, generator=seeded())
    assert rough.dtype == torch.bfloat16 and rough.isfinite().all()


# ------------------------------------------------------------------------------------------------- devices, wrappers, array-likes


@pytest.fixture(scope="module")
def wanted(latent):
    return dift(latent, pictures(2), "a cat", t=100, n=1, ensemble=2, generator=[seeded(), seeded(1)])


def found_by(pipe, images=None, **options):
    options = dict(t=100, n=1, ensemble=2, generator=[seeded(), seeded(1)]) | options
    return dift(pipe, pictures(2) if images is None else images, "a cat", **options)


@pytest.mark.parametrize("offload", offloads)
def test_it_works_offloaded(offload, wanted):
    with Accelerator():
        pipe = offloads[offload](small_models.image_pipeline())
        at_rest = [p.device.type for p in pipe.unet.parameters()]
        found = found_by(pipe)
        assert [p.device.type for p in pipe.unet.parameters()] == at_rest  # all went back
    assert found.device == DEVICE
    torch.testing.assert_close(near(found), wanted, atol=1e-5, rtol=1e-4)


def test_what_breaks_off_leaves_nothing_on_the_accelerator():
    with Accelerator():
        pipe = offloads["model"](small_models.image_pipeline())
        handle = pipe.unet.mid_block.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            found_by(pipe)
        assert {str(p.device) for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters()} == {"cpu"}
        handle.remove()
        assert found_by(pipe).device == DEVICE


@pytest.mark.parametrize("kind", ["latent", "pixel"])
def test_everything_may_lie_on_an_accelerator(kind, request):
    images, noise = pictures(2), randn(2, 3, 16, 16) if kind == "pixel" else randn(2, 4, 8, 8)
    right = dift_grid(request.getfixturevalue(kind), images, times=(9, 100), ensemble=2, noise=noise, latent="mean")
    with Accelerator():
        pipe = (small_models.image_pipeline() if kind == "latent" else small_models.pixel_pipeline()).to(DEVICE)
        for put in (lambda x: x.to(DEVICE), lambda x: x):
            found = dift_grid(pipe, put(images), times=(9, 100), ensemble=2, noise=put(noise), latent="mean")
            for key in right:
                torch.testing.assert_close(near(found[key]), right[key], atol=1e-5, rtol=1e-4)


DEMANDING = {
    "time_cond_proj_dim": dict(time_cond_proj_dim=8), "in_channels=9 instead of 4": dict(in_channels=9), "num_class_embeds": dict(num_class_embeds=3),
    "addition_embed_type": dict(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=24),
    "encoder_hid_dim_type": dict(encoder_hid_dim_type="text_proj", encoder_hid_dim=12),
}  # fmt: skip


@pytest.mark.parametrize("what", DEMANDING)
def test_unets_that_want_more_are_refused_before_any_work(what, monkeypatch):
    pipe = small_models.image_pipeline()
    config = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    pipe.register_modules(unet=diffusers.UNet2DConditionModel(**{**config, **DEMANDING[what]}).eval())
    for part, name in ((pipe.text_encoder, "forward"), (pipe.vae, "encode"), (pipe.unet, "forward")):
        monkeypatch.setattr(part, name, lambda *args, **kwargs: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=f"^pipe must have a U-Net that takes an image, a timestep and a text, got one with {what}$"):
        found_by(pipe)


def test_sequential_offload_to_the_processor_itself(wanted):
    pipe = small_models.image_pipeline()
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))  # parameters are "meta" outside their module's hooks
    assert torch.equal(found_by(pipe), wanted) and torch.equal(found_by(pipe), wanted)
    assert {p.device.type for p in pipe.unet.parameters()} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pipelines(dtype, wanted):
    pipe = small_models.image_pipeline()
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.to(dtype)
    for images in (pictures(2), pictures(2).to(dtype)):
        found = found_by(pipe, images)
        assert found.dtype == dtype and (found.float() - wanted).abs().max() < 0.03


class PeftModel(torch.nn.Module):
    """As peft's (which is not installed here) gives its model back."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def get_base_model(self):
        return self.base_model


WRAPPERS = {
    "torch.compile": torch.compile,
    "data parallel": torch.nn.DataParallel,
    "peft": PeftModel,
    "peft, compiled": lambda unet: torch.compile(PeftModel(unet)),
    "compiled in place": lambda unet: unet.compile() or unet,
    "a compiled block": lambda unet: unet.up_blocks[1].compile() or unet,
}


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_are_taken_off(wrap, wanted):
    pipe = small_models.image_pipeline()
    pipe.unet = WRAPPERS[wrap](pipe.unet)
    assert torch.equal(found_by(pipe), wanted)
    assert block_layers(pipe.unet) == {0: 2, 1: 5, 2: 8, 3: 10}
    pipe.vae = torch.compile(pipe.vae)
    assert torch.equal(found_by(pipe), wanted)


def test_images_and_noise_of_any_kind(latent, pixel, wanted):
    images, noise = pictures(2), randn(3, 3, 16, 16)
    for other in (images.numpy()[::-1].copy()[::-1], images.numpy().astype(">f4"), images.tolist(), list(images.numpy())):
        found = found_by(latent, other)
        assert isinstance(found, np.ndarray) and np.array_equal(found, wanted.numpy())
    for other in (images.double(), images.clone().requires_grad_(), images.flip(0).numpy()[::-1], list(images)):
        assert np.array_equal(np.asarray(found_by(latent, other)), wanted.numpy())
    right = dift(pixel, images, t=5, n=0, ensemble=3, noise=noise)
    for other in (noise.numpy(), noise.double().numpy()[..., ::-1].copy()[..., ::-1], noise.tolist()):
        assert torch.equal(dift(pixel, images, t=5, n=0, ensemble=3, noise=other), right)
    latent_bfloat = small_models.pixel_pipeline()
    latent_bfloat.unet.bfloat16()
    assert dift(latent_bfloat, images.numpy(), t=5, n=0, ensemble=3, noise=noise).dtype == np.float32  # numpy knows no bfloat16


def test_prompts_and_generators_of_any_kind(latent, wanted):
    prompts = ["a cat", "a dog"]
    right = dift(latent, pictures(2), prompts, t=5, n=0, ensemble=1, generator=[seeded(), seeded(1)])
    for other in (tuple(prompts), np.array(prompts), pd.Series(prompts, index=[7, 8])):
        assert torch.equal(dift(latent, pictures(2), other, t=np.int64(5), n=0, ensemble=1, generator=(seeded(), seeded(1))), right)
    shared = seeded()
    assert torch.equal(found_by(latent, generator=[shared, shared]), found_by(latent, generator=seeded()))


def test_no_generator_advances_where_a_call_is_refused(latent):
    generator = seeded()
    before = generator.get_state()
    for change in (dict(t=1000), dict(n=9), dict(ensemble=0), dict(batch=0), dict(latent="mode"), dict(noise=randn(3, 4, 8, 8)), dict(prompt=["a"])):
        with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
            dift(latent, **{**GOOD, **change, "generator": generator})
    assert torch.equal(generator.get_state(), before)


def test_hooks_are_gone_after_an_exception():
    pipe = small_models.image_pipeline()
    block = pipe.unet.up_blocks[1]

    def fail(*_, **__):
        raise RuntimeError("broken block")

    block.forward, forward = fail, block.forward
    with pytest.raises(RuntimeError, match="broken block"):
        dift_blocks(pipe, pictures(1), t=5, ensemble=1, generator=seeded())
    assert hooks(pipe) == 0
    block.forward = forward
    assert dift(pipe, pictures(1), t=5, n=1, ensemble=1, generator=seeded()).isfinite().all()


def test_strides_and_layer_map_of_stable_diffusion():
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 4, 4, 8), layers_per_block=2, norm_num_groups=2, cross_attention_dim=4, attention_head_dim=2,
    )  # fmt: skip
    names = layer_names(unet)
    assert len(names) == 15 and block_layers(unet) == {0: 3, 1: 7, 2: 11, 3: 14}
    assert names[:5] == ["up_blocks.0.resnets.0", "up_blocks.0.resnets.1", "up_blocks.0.resnets.2", "up_blocks.0.upsamplers.0", "up_blocks.1.attentions.0"]


def test_strides_relative_to_the_image(latent):
    maps = dift_blocks(latent, pictures(1, 32, 48), t=5, ensemble=1, generator=seeded())
    assert [tuple(maps[n].shape[2:]) for n in range(4)] == [(4, 6), (8, 12), (16, 24), (16, 24)]  # factor 2: strides 8, 4, 2, 2
    assert len(layer_names(latent.unet)) == 11
    odd = dift_blocks(latent, pictures(1, 22, 18), t=5, ensemble=1, generator=seeded())  # multiples of the VAE's factor are enough
    assert odd[3].shape[2:] == (11, 9)


def test_strides_of_the_adm_index():
    unet = diffusers.UNet2DModel(
        in_channels=3, out_channels=3, block_out_channels=(4,) * 6, layers_per_block=2, norm_num_groups=2, down_block_types=("DownBlock2D",) * 6,
        up_block_types=("AttnUpBlock2D",) * 2 + ("UpBlock2D",) * 4, attention_head_dim=4,
    )  # fmt: skip
    pipe = diffusers.DDPMPipeline(unet.eval(), diffusers.DDPMScheduler())
    layers = dift_layers(pipe, pictures(1, 64, 32), t=5, ensemble=1, generator=seeded())
    wanted = [32] * 2 + [16] * 3 + [8] * 3 + [4] * 3 + [2] * 3 + [1] * 4
    assert [64 // found.shape[2] for found in layers.values()] == wanted == [32 // found.shape[3] for found in layers.values()]
    assert block_layers(unet) == {0: 2, 1: 5, 2: 8, 3: 11, 4: 14, 5: 17} and len(layer_names(unet, merged=False)) == 23
    with pytest.raises(ValueError, match="multiples of 32, got"):
        dift(pipe, pictures(1, 48, 32), t=5, n=0, generator=seeded())


def test_noise_to_signal_at_the_published_timesteps(latent, pixel):
    for t, ratio in {0: 0.029, 51: 0.228, 101: 0.346, 261: 0.725, 500: 1.62, 999: 14.6}.items():
        assert noise_to_signal(latent.scheduler, t) == pytest.approx(ratio, rel=0.01)
    for t, ratio in {41: 0.147, 51: 0.179, 101: 0.346}.items():
        assert noise_to_signal(pixel.scheduler, t) == pytest.approx(ratio, rel=0.01)
    kept = latent.scheduler.alphas_cumprod
    assert float(kept[0]) == pytest.approx(0.99915) and float(kept[261]) == pytest.approx(0.6557, abs=1e-4)


@pytest.mark.parametrize("t", [-1, 1000, 2.5, True, "5", None, math.nan])
def test_timesteps_outside_the_schedule_are_refused(latent, t):
    error = ValueError if type(t) is int else TypeError
    with pytest.raises(error, match=r"t must be an integer in 0\.\.999"):
        noise_to_signal(latent.scheduler, t)
    with pytest.raises(error, match=r"t must be an integer in 0\.\.999"):
        dift(latent, pictures(1), t=t, n=0, generator=seeded())


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler",
                                  "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of diffusers itself
def test_schedulers_in_units_of_sigma_are_refused(latent, name):
    scheduler = getattr(diffusers, name)(**({"steps_offset": 1} if "Discrete" in name and "Flow" not in name else {}))
    with pytest.raises(ValueError, match=f"scheduler must keep the variance.*{name}"):
        noise_to_signal(scheduler, 5)
    pipe = diffusers.StableDiffusionPipeline(**{**latent.components, "scheduler": scheduler}, requires_safety_checker=False)
    with pytest.raises(ValueError, match="scheduler must keep"):
        dift(pipe, pictures(1), t=5, n=0, generator=seeded())


GOOD = dict(images=pictures(2), t=5, n=0, ensemble=2, generator=seeded())
BAD_CALLS = [
    (dict(n=4), ValueError, r"n must be an integer in 0\.\.3, got 4"),
    (dict(n=-1), ValueError, "n must be"),
    (dict(n=1.0), TypeError, "n must be"),
    (dict(images=(pictures(2) * 127).byte()), TypeError, r"images must be floating-point numbers .* in \[-1, 1\], got uint8 tensor of shape"),
    (dict(images="cat.png"), TypeError, r"images must be numbers \(B, 3, H, W\) in \[-1, 1\], got 'cat.png'"),
    (dict(images=pictures(2) * 1.5), ValueError, r"in \[-1, 1\]"),
    (dict(images=pictures(2) * math.nan), ValueError, "images must be finite"),
    (dict(images=pictures(2)[0]), ValueError, "images must be"),
    (dict(images=pictures(2)[:0]), ValueError, "not empty"),
    (dict(images=pictures(2)[:, :2]), ValueError, "images must be"),
    (dict(images=pictures(2, 15, 16)), ValueError, "multiples of 2, got"),
    (dict(prompt=["a cat"]), ValueError, "prompt must be one text or 2"),
    (dict(prompt=5), TypeError, "prompt must be a text or a list of texts, got 5"),
    (dict(prompt=["a", None]), TypeError, "prompt must be"),
    (dict(ensemble=0), ValueError, "ensemble must be an integer >= 1, got 0"),
    (dict(ensemble=1.5), TypeError, "ensemble must be"),
    (dict(batch=0), ValueError, "batch must be"),
    (dict(latent="mode"), ValueError, "latent must be one of sample, mean, got 'mode'"),
    (dict(generator=None), ValueError, "noise or a generator"),
    (dict(generator=None, noise=randn(2, 4, 8, 8)), ValueError, "as well as noise"),
    (dict(generator=[seeded()]), ValueError, "generator must be one torch.Generator or 2"),
    (dict(generator=[1, 2]), TypeError, "generator must be a torch.Generator or a list of them, got"),
    (dict(generator=(g for g in ())), TypeError, "generator must be a torch.Generator or a list of them, got a generator"),
    (dict(noise=randn(2, 4, 8, 7)), ValueError, "noise must be"),
    (dict(noise=randn(3, 2, 4, 8, 8)), ValueError, "noise must be"),
    (dict(noise=randn(2, 4, 8, 8) * math.inf), ValueError, "noise must be finite"),
    (dict(noise=0), TypeError, "noise must be"),
    (dict(latent=None), TypeError, "latent must be one of sample, mean, got None"),
]


@pytest.mark.parametrize("change, error, text", BAD_CALLS, ids=lambda value: str(value)[:30] if isinstance(value, str) else "")
def test_bad_calls_are_refused_before_any_work(latent, change, error, text):
    with Watch(latent.unet) as watch, pytest.raises(error, match=text):
        dift(latent, **{**GOOD, **change})
    assert not watch.inputs and hooks(latent) == 0


def test_pipelines_that_do_not_fit_are_refused(latent, pixel):
    with pytest.raises(TypeError, match="pipe must be a pipeline with a UNet2D"):
        dift(latent.unet, **GOOD)
    with pytest.raises(TypeError, match="unet must be"):
        layer_names(latent)
    with pytest.raises(ValueError, match="prompt must be empty"):
        dift(pixel, pictures(1), "a cat", t=5, n=0, generator=seeded())
    config = dict(sample_size=8, block_out_channels=(4, 4), attention_head_dim=2, norm_num_groups=2,
                  down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    for more, text in ((dict(num_class_embeds=3), "num_class_embeds"), (dict(in_channels=4), "in_channels=4 instead of 3")):
        pipe = diffusers.DDPMPipeline(diffusers.UNet2DModel(**config, **more), diffusers.DDPMScheduler())
        with pytest.raises(ValueError, match=text):
            dift(pipe, pictures(1), t=5, n=0, generator=seeded())
    for call, error, text in (
        (lambda: dift_layers(latent, pictures(1), t=5, layers=(11,), generator=seeded()), ValueError, r"layers must be an integer in 0\.\.10"),
        (lambda: dift_layers(latent, pictures(1), t=5, layers=("mid_block",), generator=seeded()), ValueError, "layers must be in 0..10 or names"),
        (lambda: dift_layers(latent, pictures(1), t=5, layers=(), generator=seeded()), ValueError, "layers must be a sequence"),
        (lambda: dift_blocks(latent, pictures(1), t=5, blocks=(), generator=seeded()), ValueError, "blocks must be a sequence"),
        (lambda: dift_blocks(latent, pictures(1), t=5, blocks=(0, 4), generator=seeded()), ValueError, r"blocks must be an integer in 0\.\.3, got 4"),
        (lambda: dift_grid(latent, pictures(1), times="51", generator=seeded()), TypeError, "times must be a sequence"),
        (lambda: dift_grid(latent, pictures(1), times=(), generator=seeded()), ValueError, "times must be a sequence"),
        (lambda: dift_grid(latent, pictures(1), times=(5, 1000), generator=seeded()), ValueError, r"times must be an integer in 0\.\.999, got 1000"),
        (lambda: layer_names(latent.unet, merged="no"), TypeError, "merged must be True, False or None, got 'no'"),
    ):
        with pytest.raises(error, match=text):
            call()
    pipe = diffusers.StableDiffusionPipeline(**{**latent.components, "vae": diffusers.AutoencoderTiny()}, requires_safety_checker=False)
    with pytest.raises(TypeError, match="pipe must have an AutoencoderKL or no VAE, got one with a AutoencoderTiny"):
        dift(pipe, pictures(1), t=5, n=0, generator=seeded())


# ---------------------------------------------------------------------------------------------------- what the maps match


def test_every_pixel_matches_itself_whatever_the_scale_and_rotation(latent):
    maps = dift(latent, pictures(1), t=50, n=2, ensemble=1, generator=seeded())[0].double()
    everywhere = torch.cartesian_prod(torch.arange(16), torch.arange(16))
    sizes = dict(source_size=(16, 16), target_size=(16, 16))
    assert torch.equal(match(maps, maps, everywhere, **sizes).points, everywhere)
    assert pck(everywhere, everywhere, (0, 0, 16, 16), alpha=1e-6).all()
    other = dift(latent, pictures(2)[1:], t=50, n=2, ensemble=1, generator=seeded(3))[0].double()
    plain = match(maps, other, everywhere, **sizes).points
    rotation = torch.linalg.qr(randn(len(maps), len(maps)).double()).Q
    rotated = [torch.einsum("dc,chw->dhw", rotation, one) for one in (maps, other)]
    assert torch.equal(match(3.7 * maps, 0.02 * other, everywhere, **sizes).points, plain)
    assert torch.equal(match(*rotated, everywhere, **sizes).points, plain)
    channels = torch.linspace(0.01, 4, len(maps)).double()[:, None, None]
    assert not torch.equal(match(maps * channels, other * channels, everywhere, **sizes).points, plain)


def test_a_flipped_copy_is_matched_to_mirrored_pixels(latent):
    picture = randn(7, 12, 10).double()  # the pixels themselves as features, which mirror with the image
    points = torch.cartesian_prod(torch.arange(10), torch.arange(12))
    sizes = dict(source_size=(12, 10), target_size=(12, 10))
    mirrored = points * torch.tensor([-1, 1]) + torch.tensor([9, 0])
    assert torch.equal(match(picture, picture.flip(-1), points, **sizes).points, mirrored)
    images, noise = pictures(1), randn(1, 4, 8, 8)
    maps = [dift(latent, x, t=50, n=2, ensemble=1, noise=z, latent="mean")[0] for x, z in ((images, noise), (images.flip(-1), noise.flip(-1)))]
    assert not torch.allclose(maps[0], maps[1].flip(-1), atol=1e-3)  # a U-Net does not
