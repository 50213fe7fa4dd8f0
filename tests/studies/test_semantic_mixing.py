"""Page 05's study: its cases, and that one batch for all settings of a source gives what each would give alone."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.measures import mixing as bench
from helpers.methods import semantic_mixing as mixing
from helpers.recipes.toy_sd import HELD_OUT
from helpers.studies import semantic_mixing as study
from helpers.toyworld import CATEGORIES

torch.set_num_threads(1)


def test_every_source_has_the_same_cases_but_for_its_words():
    cases = pd.DataFrame(study.cases())
    assert not cases.duplicated().any() and cases.source.nunique() == study.SOURCES
    counts = {source: Counter(zip(rows.part, rows.method, strict=True)) for source, rows in cases.groupby("source")}
    assert all(count == counts[0] for count in counts.values())
    assert set(cases[cases.method == "noise-and-denoise"].knob * study.STEPS) == set(study.STRENGTHS)


def test_words_are_near_and_far():
    for source in range(study.SOURCES):
        own = next(family for family in bench.FAMILIES if CATEGORIES[source % 9] in family)
        words = study.words(source)
        assert words["near"] in own and words["far"] not in own and words["near"] != CATEGORIES[source % 9]


def test_near_and_far_share_a_picture_and_not_a_noise():
    near, far = (study.todo(1, kind) for kind in ("near", "far"))
    assert torch.equal(near.image, far.image) and not torch.equal(near.noise, far.noise) and near.sources == far.sources == ["dog"]


def test_held_out_pairs_were_never_trained():
    for source in range(6):
        one = study.todo(source, "held-out")
        texture = one.pictures.full_captions[0].split()[4]
        assert (one.words[0], texture) in HELD_OUT and (one.sources[0], texture) not in HELD_OUT


def row(window, nu):
    return study.Row("compare", "mixing", "rabbit", nu, study.todo(0, "near"), window, nu)


def test_a_row_waits_on_the_layout_and_is_left_alone_below_its_window():
    rows = [row((6, 12), 0.5), row((4, 8), 0.25), row((10, 10), 1.0)]
    at = study.ratio(rows)
    table = {k: at(k).flatten().tolist() for k in range(11, 0, -1)}
    assert [table[k][0] for k in (11, 7, 6, 1)] == [0.5, 0.5, 1, 1]
    assert [table[k][1] for k in (11, 8, 7, 5, 4)] == [0, 0, 0.25, 0.25, 1]
    assert [table[k][2] for k in (11, 10, 9, 1)] == [0, 0, 1, 1]


def test_settings_of_one_batch_are_the_settings_alone():
    rows = [row((6, 12), 0.5), row((4, 8), 0.75), row((7, 7), 1.0)]
    embedded = mixing.embed(study.pipeline(), [r.todo.words[0] for r in rows])
    together = study.mixed(rows, prompt=embedded)
    for found, r in zip(together, rows, strict=True):
        one, (low, high) = r.todo, r.window
        given = study.options([r])
        if low == high:
            alone = mixing.img2img(study.pipeline(), one.image * 2 - 1, one.words, level=low, **given)
        else:
            alone = mixing.mix(study.pipeline(), one.image * 2 - 1, one.words, k_min=low / study.STEPS, k_max=high / study.STEPS, nu=r.nu, **given)
        assert torch.allclose(found, alone.images[0] / 2 + 0.5, atol=1e-4)


def test_drawn_halves_hold_both_things_in_one_pose():
    one = study.todo(2, "far")
    content, halves = (study.drawn(2, one, method) for method in ("drawn content", "drawn halves"))
    for whole in (content, one.image[0]):
        assert 0.05 < (halves != whole).any(0).float().mean() < 0.6


def test_noise_to_signal_rises_with_the_steps_left():
    found = study.noise_to_signal(study.pipeline().scheduler, range(1, study.STEPS + 1))
    assert all(a < b for a, b in pairwise(found)) and found[-1] > 10 and np.isclose(found[11], 2.14, atol=0.3)


def test_the_grid_averages_words_and_sorts_knobs():
    rows = [dict(source=s, part="compare", method="m", word=w, knob=k, x=10 * k + s + w) for s in (0, 1) for w in (0, 1) for k in (0.9, 0.1)]
    assert study.grid(pd.DataFrame(rows), "m", "x").tolist() == [[1.5, 2.5], [9.5, 10.5]]
    with pytest.raises(ValueError, match="method 'n' has no rows in part 'compare'; there are m"):
        study.grid(pd.DataFrame(rows), "n", "x")


def test_tidy_names_kinds_and_counts_both():
    words = study.words(1)
    rows = [dict(source=1, word=word, content=s, source_left=r) for word, s, r in ((words["near"], 0.9, 0.01), (words["far"], 1.0, 0.0001), ("", 0.5, 0.5))]
    found = study.tidy(pd.DataFrame(rows))
    assert found.kind.tolist() == ["near", "far", ""] and found.one.tolist() == [False, True, False] and found.both.tolist() == [100, 0, 100]


def test_the_grid_can_take_one_kind_of_word():
    words = study.words(0)
    rows = [dict(source=0, part="compare", method="m", word=w, knob=0.5, content=x, source_left=0.0) for w, x in zip(words.values(), (0.25, 0.75))]
    table = study.tidy(pd.DataFrame(rows))
    assert [study.grid(table, "m", "content", kind=kind).item() for kind in (None, "near", "far")] == [0.5, 0.25, 0.75]
