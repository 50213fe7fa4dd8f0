# ------------------------------------------------------------------------------------------------------------ the finished model


@pytest.fixture(scope="module")
def pipe():
    return zoo.load(recipe.NAME)


def test_the_folder_is_a_plain_pipeline_and_small(pipe):
    folder = zoo.folder(recipe.NAME)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 12e6
    assert pipe.scheduler.config.beta_schedule == "scaled_linear" and pipe.scheduler.config.steps_offset == 1 and not pipe.scheduler.config.set_alpha_to_one
    assert pipe.unet.config.block_out_channels == [32, 64, 96, 96] and pipe.vae_scale_factor == 4
    assert pipe.vae.config.scaling_factor not in (1.0, 0.18215)


def test_autoencoder(pipe):
    fresh = recipe.sample(9, range(64)).image
    assert autoencoders.reconstruction_psnr(pipe.vae, fresh) > 30
    z = autoencoders.encode(pipe.vae, fresh) * pipe.vae.config.scaling_factor
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_it_draws_what_the_prompt_says(pipe):
    prompts = recipe.held_out_prompts(32)
    made = recipe.pictures(pipe, prompts, 500, **zoo.entry(recipe.NAME).call | {"num_inference_steps": 20})
    verdict = judges.judge(made, prompts)
    assert verdict["category"].nanmean() > 0.7 and verdict["colour"].nanmean() > 0.7


def test_it_serves_image_to_image(pipe):
    edit = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    start = recipe.sample(9, range(2)).image
    out = edit(["a photo of a cat"] * 2, image=start, strength=0.1, num_inference_steps=10, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert out.shape == start.shape and (out - start).abs().mean() < 0.1
