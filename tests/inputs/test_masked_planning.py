"""Every public function of masked planning with odd and wrong inputs, one argument at a time."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from helpers.methods import masked_planning as mp
from tests.inputs.harness import WRONG, Kind, Odd, Trial, array, check, choice, coverage, fixed, flag, generator, instance, integer, optional, real

torch.set_num_threads(1)
draw = np.random.default_rng(0)
CLIPS, FRAMES, SIDE = 2, 4, 4


def networks(seed=0):
    torch.manual_seed(seed)
    planner = mp.Planner(in_channels=2, height=2, width=2, frames=FRAMES, dim=8, depth=1, heads=2, mlp_dim=8)
    parts = mp.Generator(2, SIDE, SIDE, 2, FRAMES, dim=8, depth=1, heads=2, mlp_dim=8, plan_dim=8, plan_tokens=4)
    for p in parts.parameters():
        if p.abs().sum() == 0:
            torch.nn.init.normal_(p, std=0.2)
    return planner.eval().requires_grad_(False), parts.eval().requires_grad_(False)


PLANNER, GENERATOR = networks()
PIPE, SCHEDULER = mp.MarDiniPipeline(PLANNER, GENERATOR, mp.make_scheduler()), mp.make_scheduler()
torch.manual_seed(0)
READOUT = mp.Readout(PLANNER).requires_grad_(False)
VIDEO, NOISE, OTHER = (draw.normal(size=(CLIPS, FRAMES, 2, SIDE, SIDE)).astype(np.float32) for _ in range(3))
LOW, PLAN = draw.normal(size=(CLIPS, FRAMES, 2, 2, 2)).astype(np.float32), draw.normal(size=(CLIPS, FRAMES, 4, 8)).astype(np.float32)
IS_REF = np.array([[True, False, False, True], [False, True, False, False]])
STEPS = np.array([300, 700])

clip, noise, plan = (array(x, tolerance=1e-4) for x in (VIDEO, NOISE, PLAN))
known = array(IS_REF, skip=("an axis fewer",))  # one row holds for all clips
shown = array(VIDEO, finite=False, tolerance=1e-4)  # masked frames may hold anything
low, images = array(LOW, tolerance=1e-4), array(VIDEO[:, :2], free=(0, 1), grow=(0, 1), tolerance=1e-4)
timestep, pipe, network = array(STEPS, low=0, high=999), instance(lambda: PIPE), instance(lambda: GENERATOR, wrong=[PLANNER])
schedule = instance(lambda: SCHEDULER, wrong=[PLANNER])
quick = dict(num_inference_steps=fixed(1), generator=generator())


def told(pipe, trace):
    pipe(VIDEO, IS_REF, num_inference_steps=1, noise=NOISE, trace=trace)
    return trace


TRIALS = [
    Trial(mp.references, task=choice("expansion"), frames=integer(5, low=2), count=integer(2, low=1, high=4)),
    Trial(mp.chosen, known=array(np.array([0, 3]), low=0, high=4, free=(0,), grow=()), frames=integer(5, low=4)),
    Trial(mp.draw_references, clips=integer(3, low=1), frames=integer(5, low=2), ratios=array(np.array([0.2, 0.6]), low=0, high=1, skip=("a reversed view",)),
          generator=generator()),
    Trial(mp.identity_mask, is_ref=array(IS_REF, free=(0, 1), grow=(0, 1)), tokens=integer(2, low=1), identity=optional(choice("token")), follows="is_ref"),
    Trial(mp.token_pairs, frames=integer(3, low=1), tokens=integer(4, low=1), mixer=choice("space-time")),
    Trial(mp.low_resolution, clip=array(VIDEO, free=(0, 1, 2), grow=(0, 1, 2)), factor=integer(2, low=1, high=4), follows="clip"),
    Trial(mp.noised, scheduler=schedule, clean=clip, noise=noise, timestep=timestep, is_ref=known, follows="clean"),
    Trial(mp.masked_error, prediction=array(VIDEO, finite=False), target=array(OTHER, finite=False), is_ref=known, per=choice("clip"), follows="prediction"),
    Trial(mp.planner_loss, planner=instance(lambda: PLANNER, wrong=[GENERATOR]), readout=instance(lambda: READOUT, wrong=[PLANNER]), low=low, is_ref=known),
    Trial(mp.generator_loss, generator=network, scheduler=schedule, clean=clip, is_ref=known, timestep=timestep, noise=noise, plan=optional(plan)),
    Trial(mp.drop_plans, generator=network, plan=array(PLAN, free=(0, 1), grow=(0, 1)), probability=real(0.5, low=0, high=1), random=generator(),
          follows="plan"),
    Trial(mp.Planner, depth=integer(1, low=1), heads=integer(1, low=1), identity=optional(choice("frame")), position=choice("table"), dim=integer(8, low=1),
          frames=integer(9, low=1), after=lambda planner: dict(planner.config)["heads"]),
    Trial(mp.Generator, depth=integer(1, low=1), patch=integer(2, low=1), mixer=choice("temporal"), roles=flag(True), mlp_dim=integer(8, low=1),
          position=choice("rope+next"), after=lambda generator: generator.mixer),
    Trial(lambda clip, is_ref: PLANNER(clip, is_ref), clip=array(LOW, finite=False, tolerance=1e-4, free=(0, 1)), is_ref=known, public="Planner.forward"),
    Trial(lambda clip, timestep, is_ref, plan: GENERATOR(clip, timestep, is_ref, plan), clip=clip, timestep=array(STEPS, low=0, either=[3.5]), is_ref=known,
          plan=optional(plan), public="Generator.forward"),
    Trial(lambda clips, frames: GENERATOR.without_plan(clips, frames), clips=integer(2, low=1), frames=integer(3, low=1),
          public="Generator.without_plan"),
    Trial(lambda plan, dropped: GENERATOR.replace_plans(plan, dropped), plan=array(PLAN, free=(1,), grow=(1,)), dropped=array(np.array([True, False])),
          follows="plan",
          public="Generator.replace_plans"),
    Trial(lambda plan: GENERATOR.read_plan(plan).plan, plan=optional(array(PLAN, free=(0, 1), grow=(0, 1))), public="Generator.read_plan"),
    Trial(mp.Readout, planner=instance(lambda: PLANNER, wrong=[GENERATOR]), after=lambda readout: tuple(readout.out.weight.shape)),
    Trial(mp.MarDiniPipeline, planner=instance(lambda: PLANNER, wrong=[GENERATOR]), generator=network, scheduler=schedule,
          vae=optional(instance(lambda: None, wrong=[GENERATOR])), after=lambda pipe: pipe.scale),
    Trial(lambda **call: PIPE(**call), video=shown, is_ref=known, num_inference_steps=integer(2, low=1, high=1000), guidance_scale=real(2.0, low=0),
          noise=optional(noise), plan=optional(plan), generator=generator(many=CLIPS), follows="video", public="MarDiniPipeline.__call__"),
    Trial(told, pipe=fixed(PIPE), trace=Kind(list, lambda: st.sampled_from([Odd(x, repr(x), WRONG) for x in ((), "frames", {}, 3, len)])),
          public="MarDiniPipeline.__call__", trial_id="the trace"),
    Trial(lambda video: PIPE.encode(video), video=array(VIDEO, free=(0, 1), grow=(0, 1)), follows="video", public="MarDiniPipeline.encode"),
    Trial(lambda latents: PIPE.decode(latents), latents=array(VIDEO, free=(0, 1), grow=(0, 1)), follows="latents", public="MarDiniPipeline.decode"),
    Trial(lambda video, is_ref: PIPE.make_plan(video, is_ref), video=shown, is_ref=known, follows="video", public="MarDiniPipeline.make_plan"),
    Trial(mp.roll_forward, pipe=pipe, start=images, windows=integer(2, low=1), keep=integer(2, low=1, high=3),
          frames=optional(integer(4, low=3, high=4)), **quick, follows="start"),
    Trial(mp.slow_motion, pipe=pipe, images=images, segment=integer(2, low=2, high=3), rounds=integer(2, low=1), overlap=flag(False),
          frames=optional(integer(4, low=3, high=4)), **quick, follows="images"),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(mp, TRIALS) <= {"make_scheduler"}  # it takes nothing


def test_nothing_is_drawn_before_a_refusal():
    random = torch.Generator().manual_seed(0)
    before = random.get_state()
    for wrong in (dict(noise=np.full_like(VIDEO, np.nan)), dict(plan=PLAN[:1]), dict(trace={}), dict(num_inference_steps=0), dict(guidance_scale=np.nan)):
        with pytest.raises((TypeError, ValueError)):
            PIPE(VIDEO, IS_REF, generator=random, **wrong)
    for call in (lambda: mp.roll_forward(PIPE, VIDEO[:, :2], 2, 4, generator=random), lambda: mp.drop_plans(GENERATOR, PLAN, 2.0, random),
                 lambda: mp.slow_motion(PIPE, VIDEO[:, :2], 3, 2, generator=random), lambda: mp.draw_references(2, 5, (0.6, 0.2), random)):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            call()
    assert torch.equal(random.get_state(), before)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_references_must_be_finite(wrong):
    hidden, seen = VIDEO.copy(), VIDEO.copy()
    hidden[0, 1], seen[1, 1, 0, 2, 3] = wrong, wrong
    assert np.isfinite(PIPE(hidden, IS_REF, num_inference_steps=1, noise=NOISE).frames[0, 1]).all()
    for call in (
        lambda: PIPE(seen, IS_REF),
        lambda: PIPE.make_plan(seen, IS_REF),
        lambda: PLANNER(np.where(IS_REF[..., None, None, None], np.nan, LOW), IS_REF),
    ):
        with pytest.raises(ValueError, match="must be finite in its reference frames"):
            call()
