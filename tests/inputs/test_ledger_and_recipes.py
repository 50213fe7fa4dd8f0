"""Odd and wrong inputs for the ledger and for what recipes share."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from helpers.page import collection, execute, explore, lab, ledger, new_method
from helpers.page.ledger import Claim, Measured
from helpers.recipes import manifest, training
from tests.inputs.harness import WRONG, Kind, Odd, Trial, array, check, coverage, fixed, flag, function, instance, integer, optional, real, text

RULE = ("Toys roll.", "A cube.", "table 9", "2x", "gain > 0 and count >= 2", "gain > 0", {"gain": "of speed", "count": "of toys"})
TOY = {"toy.1": Claim("toy.1", "01_toy", "Toy", *RULE)}


def kind(make, *wrong) -> Kind:
    return Kind(make, lambda: st.sampled_from([Odd(v, repr(v)[:60], WRONG) for v in (3, None, "text", (), np.zeros(2), object(), *wrong)]))


def measured() -> Kind:
    wrong = [float("nan"), float("inf"), 1j, [3.0], Measured(1.0, -1.0), Measured(1.0, 1.0, 0), Measured(1.0, low=2.0, high=3.0), Measured(1.0, unit=3)]
    return Kind(lambda: Measured(3.0, 1.0, 6), lambda: st.sampled_from([Odd(v, repr(v), WRONG) for v in (None, "3", {}, *wrong)]))


def named(names, *wrong) -> Kind:
    """Names of files and folders of a temporary folder."""
    return Kind(lambda: names, lambda: st.sampled_from([Odd(v, repr(v), WRONG) for v in (3, None, 1.5, b"x", np.zeros(2), *wrong)]))


def trials(place):
    (place / "notebooks").mkdir()
    (place / "data" / "models").mkdir(parents=True)
    entry = ledger.judge("toy.1", claims=TOY, gain=Measured(3.0, 1.0), count=2)
    output = execute.nbformat.v4.new_output("display_data", metadata={"stepwise": vars(entry)})
    page = execute.nbformat.v4.new_notebook(cells=[execute.nbformat.v4.new_code_cell("1", outputs=[output])])
    path = place / "notebooks" / "01_toy.ipynb"
    execute.nbformat.write(page, path)
    claims = kind(lambda: TOY, {"toy.1": 3}, [*TOY.values()])
    return [
        Trial(ledger.judge, id=text("toy.1", wrong=["toy.2", ""]), claims=claims, gain=measured(), count=fixed(2)),
        Trial(ledger.as_text, entry=kind(lambda: entry), markdown=flag(False), claims=claims),
        Trial(ledger.collect, notebooks=named(place / "notebooks", place, place / "nowhere"), claims=optional(claims)),
        Trial(ledger.entries_of, path=named(path, place, place / "nowhere.ipynb")),
        Trial(ledger.load_claims, path=named(ledger.CLAIMS, path, place), after=lambda claims: sorted(claims)),
        Trial(
            ledger.over, values=array(np.array([1.0, 2.0, 4.0]), free=(0,), grow=(0,), low=None, masks=True), unit=text("px"), note=text("n"), of=text("clips")
        ),
        Trial(ledger.out_of_reach, id=text("toy.1", wrong=["toy.2"]), reason=fixed("It needs a hall of machines."), trial_id="out_of_reach"),
        Trial(ledger.claim, id=fixed("toy.1"), trial_id="claim"),
        Trial(training.step_generator, seed=integer(3, low=0), step=integer(5, low=0), after=lambda g: torch.rand(3, generator=g)),
        Trial(training.stratified, count=integer(4, low=1), generator=instance(lambda: torch.Generator().manual_seed(1))),
        Trial(training.value_at, schedule=kind(lambda: {0: 1.0, 5: 2.0}, {}, {1: 2.0}, {5: 1.0, 0: 2.0}, {"0": 1}), step=integer(5, low=0)),
        Trial(training.warmup_linear, step=integer(5, low=0), steps=integer(40, low=1), warmup=integer(4, low=1)),
        Trial(training.save_atomically, state=fixed({"a": 1}), path=named(place / "state.pt", "state.pt")),
        Trial(
            training.train,
            module=instance(lambda: nn.Linear(2, 1)),
            loss_of=function(lambda m, s: m(torch.ones(1, 2)).square().mean()),
            steps=integer(2, low=1),
            checkpoint=named(place / "no" / "c.pt", "c.pt"),
            learning_rate=real(0.1, low=0, above=True),
            warmup=integer(1, low=1),
            decay=real(0.9, low=0, high=1),
            weight_decay=real(0.1, low=0),
            clip=real(1.0, low=0, above=True),
            label=text("x"),
            stop_at=optional(integer(0, low=0)),
            after=lambda m: None,
        ),
        Trial(training.Average, module=instance(lambda: nn.Linear(2, 1)), decay=real(0.9, low=0, high=1), after=lambda a: a.decay),
        *(Trial(f, device=instance(lambda: torch.device("cpu")), after=str) for f in (training.has_bfloat16, training.memory_format, training.machine_kind)),
        Trial(training.autocast, device=instance(lambda: torch.device("cpu")), after=lambda _: None),
        Trial(training.write_folder, model=instance(lambda: Saved()), folder=named(place / "model", "model"), part=text("")),
        Trial(training.quality_table, quality=kind(lambda: {"one": {"all": (50.0, 2)}}, {}, {"one": 3}, {"one": {"a": (1, 1)}, "two": {"b": (1, 1)}})),
        Trial(training.write_manifest_of, out=named(place / "elsewhere", "elsewhere")),
        Trial(training.average_gradients, module=fixed(None), trial_id="average_gradients"),
        Trial(manifest.manifest_of, data=named(place / "data", place / "nowhere", "data")),
        Trial(manifest.write_manifest, data=named(place / "data", place / "nowhere", "data")),
        Trial(lab.refresh, root=named(place, place / "nowhere", "x")),
        Trial(lab.fresh, root=named(place, place / "nowhere"), pages=named(["01"], ["02"], [3], {"01"}, "01"), after=lambda said: len(said)),
        Trial(lab.command, root=named(place, "x"), folder=text("notebooks"), after=lambda r: r[0][1:]),
        Trial(lab.before_save, model=kind(lambda: {"type": "file"}), after=lambda _: None),
        Trial(collection.read_pages, folder=named(place / "data", place / "nowhere", path)),
        Trial(execute.overview, path=named(path, place), trial_id="overview"),
        Trial(execute.tidy, notebook=kind(lambda: page), after=lambda _: None),
        Trial(new_method.plan, name=fixed("mixup"), trial_id="plan"),
        Trial(
            new_method.write,
            texts=kind(lambda: {place / "t": "x"}, {"t": "x"}, {place / "u": 3}),
        ),
        Trial(
            explore.control,
            draw=function(lambda n=1: f"<i>{n}</i>"),
            title=text("t"),
            buttons=optional(kind(lambda: {}, {"b": 3})),
            defaults=optional(kind(lambda: {"n": 1}, {"m": 1})),
            strip=optional(kind(lambda: [{"n": 2}], [3], [], [{"m": 1}])),
            precompute=flag(False),
            n=kind(lambda: [1, 2, 3], [1], (1, 0, 1), (0, 1, float("nan"))),
            after=lambda c: c.values,
            names={"n": ("slider", "strip", "default"), "defaults": ("default",)},
        ),
        Trial(explore.pick, source=fixed(None), trial_id="pick"),
    ]


class Saved:
    def save_pretrained(self, folder, **_):
        folder.mkdir(parents=True)


UNTRIED = {"claim", "out_of_reach", "average_gradients", "overview", "plan", "pick"}  # their own tests try them; they show, or need a page or a process group


def test_wrong_inputs_are_refused_and_odd_ones_taken(tmp_path, subtests):
    for trial in trials(tmp_path):
        if trial.id not in UNTRIED:
            with subtests.test(trial.id):
                check(trial)


def test_every_public_function_has_a_trial(tmp_path):
    every = trials(tmp_path)
    assert coverage(ledger, every) == set()
    assert coverage(training, every) == {"begin", "join_processes", "wait_for_all", "autocast_with_attention"}  # take no arguments, or torch's own
    assert coverage(manifest, every) == set() and coverage(lab, every) == set() and coverage(new_method, every) == set() and coverage(explore, every) == set()
    assert coverage(execute, every) == {"execute", "tidy_outputs"}
    assert coverage(collection, every) == {"stale", "show_claims", "show_index", "show_map"}  # and refresh, of which lab has one too
