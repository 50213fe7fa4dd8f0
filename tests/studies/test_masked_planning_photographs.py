"""Page 03's photographs: cases, rows against the measures, and what the pair is given. (toy-mardini stands in for the widened pair, which is as large.)"""

import pandas as pd
import pytest
import torch

from helpers.datasets import photo_crops
from helpers.measures import filling, metrics
from helpers.recipes import toy_mardini as recipe
from helpers.studies import masked_planning
from helpers.studies import masked_planning_photographs as study

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(study, "pair", masked_planning.pair)
    study.measured_together.cache_clear()
    yield
    study.measured_together.cache_clear()


def test_cases_fill_whole_batches():
    cases = pd.DataFrame(study.cases())
    groups = cases.groupby(["view", "way", "steps"])["clip"].apply(list)
    assert all(clips == list(range(len(clips))) and len(clips) % study.BATCH == 0 for clips in groups)
    assert set(cases.view) == set(study.VIEWS) and len(groups["fast pan", "own plan", study.STEPS]) == 100
    assert set(study.VIEWS["fast pan"][0]) == set(photo_crops.KEPT_OUT) and not set(study.VIEWS["fast pan, trained on"][0]) & set(photo_crops.KEPT_OUT)


def test_rows_against_the_measures():
    video = study.views("fast pan", [3]).video[0]
    row = study.measure(dict(view="fast pan", way="cross-fade", steps=0, clip=3))
    faded = filling.cross_fade(video, study.ENDS)
    assert row == pytest.approx(dict(psnr=metrics.psnr(faded[1:8], video[1:8]), ssim=metrics.ssim(faded[1:8], video[1:8])), abs=1e-4)
    pipe = study.pair()
    through = (pipe.decode(pipe.encode(2 * video[None] - 1))[0] / 2 + 0.5).clamp(0, 1)
    row = study.measure(dict(view="fast pan", way="autoencoder", steps=0, clip=3))
    assert row["psnr"] == pytest.approx(metrics.psnr(through[1:8], video[1:8]), abs=0.01)


def test_fast_pans_go_further_than_slow_ones():
    way = {name: study.views(name, range(6)).shift.norm(dim=2).sum(1) for name in ("fast pan", "slow pan")}
    assert way["fast pan"].min() > way["slow pan"].max()


def test_what_the_pair_is_given(monkeypatch):
    seen = {}

    def filled(pipe, video, is_ref, plan, steps, scale, first):
        seen.update(plan=plan, steps=steps, scale=scale, first=first)
        return video

    monkeypatch.setattr(recipe, "filled", filled)
    row = study.measure(dict(view="fast pan", way="another clip's plan", steps=10, clip=11))
    before = study.views("fast pan", range(9, 19)).video
    assert torch.allclose(seen["plan"], study.pair().make_plan(2 * before - 1, study.ENDS), atol=1e-5)
    assert (seen["steps"], seen["scale"], seen["first"]) == (10, 1.0, 10) and row["ssim"] == 1
    study.measure(dict(view="zoom", way="no plan", steps=10, clip=0))
    assert torch.equal(seen["plan"], study.pair().generator.without_plan(10, 9))
