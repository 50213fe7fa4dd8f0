"""Recipes continue: a run that was stopped ends with the weights of one that was not, and refuses what would spoil them."""

import subprocess
import sys
import textwrap

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from helpers.recipes import training

torch.set_num_threads(1)


def loss_of(module, step):
    x = torch.randn(8, 3, generator=training.step_generator(5, step))
    return (module(x) - x.sum(1, keepdim=True)).square().mean()


def run(checkpoint, **changes):
    torch.manual_seed(0)
    options = dict(steps=40, learning_rate=0.05, warmup=5, decay=0.9, label="test") | changes
    return training.train(nn.Linear(3, 1), loss_of, checkpoint=checkpoint, **options)


def weights(module):
    return torch.cat([p.flatten() for p in module.parameters()])


def test_a_stopped_run_continues_to_the_same_weights(tmp_path):
    whole = run(tmp_path / "whole.pt")
    for stop in (7, 8, 31, None):
        last = run(tmp_path / "parts.pt", stop_at=stop)
    assert torch.equal(weights(last), weights(whole))
    one, other = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert one["step"] == other["step"] == 40
    assert all(torch.equal(one["module"][k], other["module"][k]) for k in one["module"])


def test_a_kill_between_checkpoints_loses_only_the_steps_since(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole.pt")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1)  # after every step

    def killed(module, step):
        if step == 23:
            raise KeyboardInterrupt
        return loss_of(module, step)

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        training.train(nn.Linear(3, 1), killed, steps=40, checkpoint=tmp_path / "k.pt", learning_rate=0.05, warmup=5, decay=0.9)
    assert torch.load(tmp_path / "k.pt", weights_only=True)["step"] == 23
    assert torch.equal(weights(run(tmp_path / "k.pt")), weights(whole))


def test_training_learns(tmp_path):
    model = run(tmp_path / "c.pt", steps=300)
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.05)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    run(tmp_path / "c.pt", stop_at=10)
    before = (tmp_path / "c.pt").read_bytes()
    with pytest.raises(FloatingPointError, match="step 10"):
        options = dict(steps=40, learning_rate=0.05, warmup=5, decay=0.9)
        training.train(nn.Linear(3, 1), lambda m, s: loss_of(m, s) * float("nan"), checkpoint=tmp_path / "c.pt", **options)
    assert (tmp_path / "c.pt").read_bytes() == before


def test_learning_rate_factor():
    factors = [training.warmup_linear(s, 100, 10) for s in range(101)]
    assert factors[0] == 0.1 and max(factors) == 1 and factors[100] == 0
    assert factors[9] == 1 and all(b < a for a, b in zip(factors[10:], factors[11:], strict=False))


def test_seeds_by_step_differ_and_repeat():
    first = [torch.rand(1, generator=training.step_generator(1, s)).item() for s in range(50)]
    assert len(set(first)) == 50
    assert first == [torch.rand(1, generator=training.step_generator(1, s)).item() for s in range(50)]


def test_processes_average_their_gradients(tmp_path):
    """Two processes with half the batch each make the step of one with all of it."""
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import torch
        from torch import nn
        from pathlib import Path
        from helpers.recipes import training
        torch.set_num_threads(1)
        rank, size = training.join_processes()
        def loss_of(module, step):
            x = torch.randn(8, 3, generator=training.step_generator(5, step))[rank::size]
            return (module(x) - x.sum(1, keepdim=True)).square().mean()
        torch.manual_seed(0)
        training.train(nn.Linear(3, 1), loss_of, steps=20, checkpoint=Path({str(tmp_path)!r}) / f"{{size}}.pt", learning_rate=0.05, warmup=5, decay=0.9)
        training.wait_for_all()
    """)
    )
    run(tmp_path / "1.pt", steps=20)  # all of each batch, in this process
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)], check=True, capture_output=True)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True)["module"] for n in (1, 2))
    assert all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)


def test_folders_do_not_say_where_a_part_came_from(tmp_path):
    small = dict(block_out_channels=(8,), layers_per_block=1, norm_num_groups=2)
    unet = UNet2DModel(sample_size=8, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), **small)
    unet.save_pretrained(tmp_path / "first")
    training.write_folder(UNet2DModel.from_pretrained(tmp_path / "first"), tmp_path / "second", "unet")
    again = UNet2DModel.from_pretrained(tmp_path / "second" / "unet")
    assert again.config.block_out_channels == [8] and all(torch.equal(a, b) for a, b in zip(unet.parameters(), again.parameters(), strict=True))
    configs = [tmp_path / "second" / "unet" / "config.json", *(training.DATA / "models").rglob("*.json")]
    assert len(configs) > 10 and not [path for path in configs if "_name_or_path" in path.read_text()]


def test_schedules_by_step():
    schedule = {0: (0.35, 1.0), 10: (0.15, 0.6), 20: (0.06, 0.3)}
    assert [training.value_at(schedule, step) for step in (0, 9, 10, 25)] == [(0.35, 1.0), (0.35, 1.0), (0.15, 0.6), (0.06, 0.3)]
