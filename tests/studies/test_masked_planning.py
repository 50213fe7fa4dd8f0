"""Page 03's comparisons: the tables hold what the page asks for, and what a row says is what the frames show, tried on tiny variants."""

import math

import pytest
import torch

from helpers import studies
from helpers.methods import masked_planning as mp
from helpers.models import zoo
from helpers.recipes import toy_mardini as recipe
from helpers.recipes import toy_mardini_variants as variants
from helpers.studies import masked_planning as study
from helpers.toyworld import analysers

torch.set_num_threads(1)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Random generators in the variants' places; a planner of its own for one of them."""
    torch.manual_seed(0)
    config = recipe.FIRST_GENERATOR | dict(dim=16, depth=1, heads=2, mlp_dim=16)
    for name in ("alone-32", "generator-32", "curriculum-0", "plain"):
        generator = mp.Generator(**config)
        torch.nn.init.normal_(generator.out.weight, std=0.3)
        generator.save_pretrained(tmp_path / variants.NAME / name / "generator")
    mp.Planner(**recipe.PLANNER | dict(depth=1)).save_pretrained(tmp_path / variants.NAME / "curriculum-0" / "planner")
    study.pair()
    monkeypatch.setattr(zoo, "MODELS", tmp_path)
    study.variant.cache_clear()
    yield
    study.variant.cache_clear()


@pytest.mark.parametrize("name, task, plan", [("alone-32", "image-to-video", "no plan"), ("generator-32", "image-to-video", "another clip's plan"),
                                              ("curriculum-0", "interpolation", "own plan"), ("plain", "interpolation", "no plan")])  # fmt: skip
def test_a_row_is_what_the_frames_show(tiny, monkeypatch, name, task, plan):
    """The distance from the truth by a slow loop over the row's own places; and the noise is the clip's own."""
    made = []
    analyse = analysers.analyse_clips
    monkeypatch.setattr(analysers, "analyse_clips", lambda video: made.append(video) or analyse(video))
    case = dict(variant=name, task=task, plan=plan, seed=5, clip=3)
    row = study.measure(case)
    assert list(row) == list(study.STUDY.tolerance)

    true = recipe.sample(recipe.HELD_OUT_SEED, [3]).render().video
    known = recipe.TASKS[task]
    assert torch.allclose(made[0][:, known], true[:, known], atol=1e-6) and not torch.allclose(made[0], true, atol=0.05)
    read, missing = analyse(true).position[0], [t for t in range(9) if not known[t]]
    gaps = [math.dist((row[f"x{t}"], row[f"y{t}"]), read[t].tolist()) for t in missing]
    assert row["off"] == pytest.approx(sum(16 if math.isnan(gap) else gap for gap in gaps) / len(gaps), rel=1e-4)
    study.measure(case | {"clip": 4})
    first = made[0].clone()
    made.clear()
    assert study.measure(case) == pytest.approx(row, nan_ok=True) and torch.equal(made[0], first)
    made.clear()
    study.measure(case | {"seed": 6})
    assert not torch.equal(made[0], first)


def test_the_plain_model_fills_in_as_the_pipeline_does_without_guidance(tiny):
    """Against the pipeline that is given the stand-in for every plan."""
    generator = study.variant("plain")
    video, known, noise = recipe.sample(recipe.HELD_OUT_SEED, [2]).render().video, recipe.TASKS["interpolation"], recipe.noise_of(2, 1, 9, 100)
    made = study.filled_plainly(generator, video, known, noise, 4)
    pipe = mp.MarDiniPipeline(study.pair().planner, generator, mp.make_scheduler(), study.pair().vae)
    expected = pipe(2 * video - 1, known, num_inference_steps=4, noise=noise, plan=generator.without_plan(1, 9)).frames / 2 + 0.5
    assert torch.allclose(made, expected, atol=1e-4) and torch.equal(made[:, known], video[:, known])


def test_the_tables_hold_what_the_page_asks_for():
    table, learned = studies.load("masked_planning"), studies.load("masked_planning_training")
    clips = table.groupby(["variant", "task", "plan", "seed"]).clip.nunique()
    assert len(clips) == 10 + 12 + 3
    assert all(count == (study.FEW if name.startswith(("curriculum", "hard")) else study.CLIPS) for (name, *_), count in clips.items())
    assert table.off.between(0, 32).all() and set(table.kept) <= {0, 1}
    assert set(learned.variant) == set(variants.variants())
    for name, variant in variants.variants().items():
        rows = learned[learned.variant == name]
        assert rows.loss.isna().all() == (variant.looks == 0) and rows.step.iloc[-1] == variant.steps and (rows.seconds > 0).all()
        if variant.looks:
            assert len(rows) == variant.looks and rows.loss.iloc[-1] < rows.loss.iloc[0] < 2
