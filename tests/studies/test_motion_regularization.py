"""Page 02's studies: cases, settings, and the mix that makes AdaCache cost what MoReg does."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.studies import caching_calibration as calibration
from helpers.studies import motion_calibration as settings
from helpers.studies import motion_regularization as study
from helpers.toyworld import shapes

torch.set_num_threads(1)


def test_within_an_object_only_the_words_differ():
    cases = pd.DataFrame(study.cases())
    told = cases[(cases.method == "uncached") & (cases.motion != "none")]
    assert told.groupby("model").seed.nunique().to_dict() == study.OBJECTS and not set(told.prompt) & set(calibration.prompts())
    for _, rows in told[told.model == "toy-latte"].groupby("seed"):
        read = {row.motion: shapes.parse_caption(row.prompt) for row in rows.itertuples()}
        assert {kind: r["motion"] for kind, r in read.items()} == {"still": "still", "slow": "move", "fast": "move", "camera": "pan"}
        (look,) = {r["objects"][0][:2] for r in read.values()}
        assert len({r["objects"][0][2] for kind, r in read.items() if kind != "still"}) == 1
        assert read["slow"]["objects"][0][3] < read["fast"]["objects"][0][3]
    assert len({study.prompt_of("still", i) for i in range(24)}) == 24  # no pair twice


def test_every_compared_method_has_the_same_clips():
    cases = pd.DataFrame(study.cases())
    for (model, method, budget), rows in cases[cases.motion.isin(study.MOTIONS) & ~cases.method.str.startswith("shown")].groupby(["model", "method", "budget"]):
        count = study.FEW if method in settings.VARIANTS and method != "MoReg" else study.OBJECTS[model]
        assert len(rows) == count * (1 if budget == 20 else 4), (model, method, budget)


def test_early_is_calls_2_to_a_third():
    assert study.EARLY == tuple(n for n in study.LOOKS if 2 <= n <= 10) and set(study.TRAP_LOOKS) <= set(study.LOOKS)
    table = pd.DataFrame([{f"mu_{n}": float(n) for n in study.LOOKS}, {f"mu_{n}": np.nan for n in study.LOOKS}])
    found = study.early(table, "mu")
    assert found[0] == np.mean(study.EARLY) and np.isnan(found[1])


def test_noisy_frames_differ_from_the_still_clip_by_their_own_noise():
    still, noisy = (study.given_clip(kind, 3)[0] for kind in ("still", "noisy frames"))
    assert torch.equal(still, still[:1].expand_as(still))
    change = (noisy[1:] - noisy[:-1]).std()
    assert 0.08 < change < 0.15  # 0.1 a frame, 0.141 a difference, less what is cut at black and white


def test_settings_cost_what_they_should_and_the_first_calls_are_computed():
    table = settings.table()
    moreg = table[table.method != "AdaCache"]
    assert abs(moreg.calls - settings.BASE * settings.EXTRA).max() < 0.1 and set(moreg.method) == set(settings.VARIANTS)
    book, plain = settings.setting("toy-latte", "AdaCache", 11.5)
    assert plain is None and settings.setting("toy-latte", "MoReg")[0] == book
    _, first = settings.setting("toy-latte", "first calls too")
    layout, probe = settings.layout("toy-latte"), torch.ones(16, 8, 4)
    assert layout.tokens == 16 and [first.factor(probe, n, 1) > 1e6 for n in (2, 5, 6, 7)] == [True, True, False, False]
    first.reset()
    assert first.inner.trace == []


def tiny():
    """Two objects; AdaCache computes 10 and 14 calls, MoReg 11 in the mean."""
    rows = []
    for seed in range(2):
        for k, motion in enumerate(study.MOTIONS):
            key = dict(model="m", motion=motion, seed=seed)
            rows += [key | dict(method="AdaCache", budget=b, calls=c, psnr=30 + k + c) for b, c in ((11.5, 10), (14.0, 14))]
            rows.append(key | dict(method="MoReg", budget=13.53, calls=10 + k % 3 + seed, psnr=50.0 + seed))
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_the_mix_costs_exactly_what_the_variant_does():
    table = tiny()
    ours, plain = study.at_same_cost(table, "calls", model="m")
    assert ours.shape == plain.shape == (2, 4) and ours.mean() == pytest.approx(plain.mean()) and ours[1, 2] == 13
    ours, plain = study.at_same_cost(table, model="m")
    share = (11.25 - 10) / 4
    assert ours[:, 0].tolist() == [50, 51] and plain[0] == pytest.approx([30 + k + 10 + 4 * share for k in range(4)])
    _, fast = study.at_same_cost(table, "calls", model="m", motions=("fast",))
    assert fast.mean() == pytest.approx(12.5)


def test_costs_out_of_reach_and_missing_rows_are_refused():
    dear = tiny().assign(calls=lambda t: t.calls.where(t.method == "AdaCache", 20))
    with pytest.raises(ValueError, match="MoReg computes 20.00 calls on m, AdaCache 10.00 to 14.00"):
        study.at_same_cost(dear, model="m")
    with pytest.raises(ValueError, match="method must be one of .MoReg., .AdaCache., got .power 2."):
        study.at_same_cost(tiny(), model="m", variant="power 2")
    with pytest.raises(ValueError, match="got 4"):
        study.column(pd.concat([tiny(), tiny()]), "still", "psnr", model="m", method="MoReg")
    for call, error, message in (
        (lambda: study.column(None, "still", "psnr"), TypeError, "table must be a study's"),
        (lambda: study.column(tiny(), "quick", "psnr"), ValueError, "model must be"),
        (lambda: study.column(tiny(), "quick", "psnr", model="m", method="MoReg"), ValueError, "motion must be one of"),
        (lambda: study.column(tiny(), "still", "pnsr", model="m", method="MoReg"), ValueError, "the table has no column pnsr; there are"),
        (lambda: study.column(tiny(), "still", 3, model="m", method="MoReg"), TypeError, "column must be"),
        (lambda: study.early(tiny(), "mu"), ValueError, "no column mu_"), (lambda: study.prompt_of("still", 10**6), ValueError, "index must be"),
        (lambda: study.prompt_of("quick", 0), ValueError, "motion must be one of"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
