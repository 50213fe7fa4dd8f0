# ------------------------------------------------------------------------------------------------------------------ the finished model

FOLDER = training.DATA / "models" / recipe.NAME


@pytest.mark.skipif(not FOLDER.exists(), reason=f"data/models/{recipe.NAME} is not there; `make model NAME={recipe.NAME}` trains it")
def test_the_finished_model_matches_keypoints():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["Dinov2Model"] and config["patch_size"] == recipe.PATCH and config["image_size"] == recipe.SIZE
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 8e6
    vit = Dinov2Model.from_pretrained(FOLDER, local_files_only=True)
    assert vit.dtype == torch.float32 and recipe.tokens_of(vit, torch.rand(1, 3, 64, 64))[0].shape == (1, recipe.WIDTH, 16, 16)
    quality = recipe.measure(vit, count=40)
    ours, others = quality.pop(recipe.NAME), quality.values()
    assert all(ours[1] > other[1] + 15 and ours[2] > other[2] + 20 for other in others)  # PCK at 0.2 and category, in points
