"""What the hooks of adaptive caching cost: measured speed-up against the ratio of computed calls.

    python tests/benchmarks/caching_schedules.py [--json]

Timed is the denoising loop of one clip: 30 calls of the transformer with a guidance batch of two, guidance and the
scheduler's step. Text encoder and decoder are not in it (no cache can help there). On the trained toy-latte when it is
there, else on random weights of the same size. Cached and uncached loops take turns in one process on one thread; every
number is a median. Efficiency = (uncached seconds / cached seconds) / (30 / computed calls): 1 means that skipped calls
are free and deciding costs nothing. The ceiling is the efficiency of an imaginary cache without any cost of its own:
skipped calls still run embedders, timestep MLP, reshapes, final layers and the scheduler. `of_ceiling` is the share of it
that is reached: what hooks and decisions leave. (Nothing else repeats from call to call: keeping the projected text would save
a sixtieth of a skipped call.)
"""

import itertools
import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods.caching_schedules import FAST_30, CachingClock, Codebook, apply_adacache, uniform_calls
from helpers.methods.motion_regularization import MotionRegulariser, layout_of
from tests.benchmarks._script import start

CALLS, GUIDANCE = 30, 3.0
MODEL = ROOT / "data" / "models" / "toy-latte"


def trained():
    """(pipeline, transformer, scheduler, the keyword arguments of its first call) from the model folder."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    seen = {}

    def look(module, args, kwargs):
        seen.update(kwargs)
        raise StopIteration  # one look is enough

    remover = pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        pipe("a red ring moves up fast", num_inference_steps=CALLS, guidance_scale=GUIDANCE, **sizes(pipe))
    except StopIteration:
        pass
    remover.remove()
    return pipe, pipe.transformer, pipe.scheduler, seen


def sizes(pipe):
    config = pipe.transformer.config
    side = config.sample_size * pipe.vae_scale_factor
    return dict(height=side, width=side, video_length=config.video_length, clean_caption=False)


def untrained():
    from diffusers import DDIMScheduler, LatteTransformer3DModel

    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        num_attention_heads=4, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=4, cross_attention_dim=128,
        attention_bias=True, sample_size=8, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=64, video_length=8,
    ).eval()  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    inputs = dict(hidden_states=torch.randn(2, 4, 8, 8, 8), encoder_hidden_states=torch.randn(2, 12, 64))
    return None, transformer, scheduler, inputs


def ready(pipe, transformer, scheduler, seen):
    """Returns denoise(seed) -> seconds for one clip."""
    embeddings, shape = seen["encoder_hidden_states"], (1, *seen["hidden_states"].shape[1:])
    scheduler.set_timesteps(CALLS)
    assert len(scheduler.timesteps) == CALLS

    @torch.no_grad()
    def denoise(seed=0):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scheduler.init_noise_sigma
        start = perf_counter()
        scheduler.set_timesteps(CALLS)
        for t in scheduler.timesteps:
            pair = scheduler.scale_model_input(torch.cat([x, x]), t)
            out = transformer(hidden_states=pair, encoder_hidden_states=embeddings, timestep=t[None].expand(2), return_dict=False)[0]
            without, with_text = out.chunk(2)
            out = without + GUIDANCE * (with_text - without)
            x = scheduler.step(out.chunk(2, dim=1)[0], t, x, return_dict=False)[0]
        return perf_counter() - start

    return denoise


class Planned(CachingClock):
    """A caching clock that decides as always, and then follows a plan: exactly the wanted number of computed calls."""

    def __init__(self, computed_calls):
        super().__init__(FAST_30, CALLS)
        self.plan = [*computed_calls, CALLS + 1]

    def update(self, distance, factor=1.0):
        super().update(distance, factor)
        self.rate = next(n for n in self.plan if n > self.call) - self.call


def for_free(transformer, denoise, plan):
    """Seconds of a loop whose planned calls are computed and whose other calls find empty blocks; nothing is decided."""
    blocks = [*transformer.transformer_blocks, *transformer.temporal_transformer_blocks]
    calls = itertools.count(1)

    def begin(*_):
        compute = next(calls) in plan
        for block in blocks:
            block.forward = type(block).forward.__get__(block) if compute else lambda hidden_states, *args: hidden_states

    remover = transformer.register_forward_pre_hook(begin)
    try:
        return denoise()
    finally:
        remover.remove()
        for block in blocks:
            del block.forward


def deciding(transformer, denoise, repeats, sample):
    """Median seconds of one tick and observe on the model's own probe residuals: plain, with MoReg, and expecting a line."""
    with apply_adacache(transformer, Codebook((), (1,)), CALLS, record=True) as handle:
        denoise()
    frames, height, width = sample.shape[2:]
    moreg = MotionRegulariser(layout_of(transformer, num_frames=frames, height=height, width=width), window=(4, 26))
    kinds = {"": {}, "_moreg": dict(regulariser=moreg), "_linear": dict(expect="linear")}
    seconds = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, options in kinds.items():
            clock = CachingClock(Codebook((0.1,), (1, 1)), CALLS, **options)
            for probe in handle.last.probes:
                start = perf_counter()
                clock.tick()
                clock.observe(probe)
                seconds[kind].append(perf_counter() - start)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def measure(repeats):
    torch.set_num_threads(1)
    pipe, transformer, scheduler, seen = trained() if (MODEL / "model_index.json").exists() else untrained()
    denoise = ready(pipe, transformer, scheduler, seen)
    denoise()
    plans = {"2x": uniform_calls(CALLS, budget=CALLS // 2, last=2), "3x": uniform_calls(CALLS, budget=CALLS // 3, last=2)}
    seconds = {name: [] for name in ("full", *plans)}
    free = {name: [] for name in plans}
    computed = {}
    for _ in range(repeats):  # taking turns, so that a slow moment of the machine meets all alike
        seconds["full"].append(denoise())
        for name, plan in plans.items():
            with apply_adacache(transformer, clock=Planned([1, 2, *plan[2:]])) as handle:
                seconds[name].append(denoise())
            computed[name] = len(handle.last.computed)
            free[name].append(for_free(transformer, denoise, handle.last.computed))
    full = statistics.median(seconds["full"])
    result = {
        "model": "toy-latte" if pipe else "random weights of the same size",
        "calls": CALLS,
        "repeats": repeats,
        "seconds_full": full,
        "ms_full_call": 1e3 * full / CALLS,
    }
    for kind, decision in deciding(transformer, denoise, repeats, seen["hidden_states"]).items():
        result[f"ms_decision{kind}"] = 1e3 * decision
        result[f"decision_share{kind}"] = decision / (full / CALLS)
    for name in plans:
        n = computed[name]
        ratios = [f / c for f, c in zip(seconds["full"], seconds[name], strict=True)]
        result[f"computed_{name}"] = n
        result[f"seconds_{name}"] = statistics.median(seconds[name])
        result[f"speedup_{name}"] = statistics.median(ratios)
        result[f"efficiency_{name}"] = statistics.median(ratios) * n / CALLS
        result[f"ceiling_{name}"] = statistics.median(f / c for f, c in zip(seconds["full"], free[name], strict=True)) * n / CALLS
        result[f"of_ceiling_{name}"] = statistics.median(f / c for f, c in zip(free[name], seconds[name], strict=True))
        result[f"ms_skipped_call_{name}"] = 1e3 * (result[f"seconds_{name}"] - n * full / CALLS) / (CALLS - n)
    return result


def table(result):
    print(f"{result['model']}, {CALLS} calls, one thread, median of {result['repeats']}")
    print(f"a full call takes {result['ms_full_call']:.2f} ms")
    for kind, label in (("", "a decision"), ("_moreg", "with MoReg"), ("_linear", "expecting a line")):
        print(f"{label:17} {result[f'ms_decision{kind}']:.3f} ms, {result[f'decision_share{kind}']:.2%} of a full call")
    print(f"{'':8}{'computed':>10}{'seconds':>10}{'speed-up':>10}{'efficiency':>12}{'ceiling':>10}{'of it':>10}{'ms a skipped call':>20}")
    print(f"{'full':8}{CALLS:10d}{result['seconds_full']:10.3f}{1:10.2f}{1:12.3f}{1:10.3f}{1:10.3f}")
    for name in ("2x", "3x"):
        row = [result[f"{key}_{name}"] for key in ("computed", "seconds", "speedup", "efficiency", "ceiling", "of_ceiling", "ms_skipped_call")]
        print(f"{name:8}{row[0]:10d}{row[1]:10.3f}{row[2]:10.2f}{row[3]:12.3f}{row[4]:10.3f}{row[5]:10.3f}{row[6]:20.2f}")


if __name__ == "__main__":
    start(__doc__, measure, table)
