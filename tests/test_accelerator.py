"""The pretended accelerator refuses what a real one refuses, and pipelines run on it and under every offload as on the CPU."""

import numpy as np
import pytest
import torch

from helpers.models import small
from tests.accelerator import DEVICE, Accelerator, near, offloads


def image(pipe):
    seed = torch.Generator().manual_seed(0)
    return pipe("a cat", num_inference_steps=2, generator=seed, height=16, width=16, output_type="pt").images


@pytest.fixture(scope="module")
def right():
    return image(small.image_pipeline())


def test_numbers_are_those_of_the_cpu():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with Accelerator():
        far = x.to(DEVICE)
        found = (far @ far.T).softmax(1) + torch.arange(3, device=far.device)
        found[0] = 7
        far.requires_grad_().square().sum().backward()
    assert found.device == DEVICE and found.cpu().device.type == "cpu"
    expected = (x @ x.T).softmax(1) + torch.arange(3)
    expected[0] = 7
    assert torch.equal(near(found), expected)
    assert torch.equal(near(far.grad), 2 * x)


@pytest.mark.parametrize("made", [lambda d: torch.tensor([1, 2], device=d), lambda d: torch.as_tensor(np.arange(1, 3), device=d),
                                  lambda d: torch.ones(2, device=d).cumsum(0), lambda d: torch.ones(2, device=d).new_tensor([1, 2])])  # fmt: skip
def test_tensors_are_made_there(made):
    with Accelerator():
        x = made(DEVICE)
    assert x.device == DEVICE and near(x).tolist() == [1, 2] == x.tolist()


@pytest.mark.parametrize("mixed", [
    lambda far, x: far + x,
    lambda far, x: torch.where(x > 0, far, 0),
    lambda far, x: x[far.long()],
    lambda far, x: torch.cat([far, x]),
    lambda far, x: torch.nn.Linear(2, 2)(far),
    lambda far, x: far + torch.empty(2, device="meta"),
    lambda far, x: torch.rand(2, device=far.device, generator=torch.Generator()),
])  # fmt: skip
def test_mixtures_are_refused(mixed):
    x = torch.ones(2)
    with Accelerator(), pytest.raises(RuntimeError, match="device"):
        mixed(x.to(DEVICE), x)


def test_numpy_is_refused():
    with Accelerator():
        far = torch.ones(2).to(DEVICE)
        for turn in (lambda x: x.numpy(), np.asarray):
            with pytest.raises(TypeError, match="to numpy"):
                turn(far)


def test_numbers_without_dimensions_and_indices_may_come_from_the_cpu():
    with Accelerator():
        far = torch.arange(4.0).to(DEVICE)
        found = far[torch.tensor([1, 3])] * torch.tensor(2.0)
        found[torch.tensor([True, False])] = 5
    assert near(found).tolist() == [5, 6]


def test_nothing_is_pretended_outside():
    assert torch.ones(2).to("meta").is_meta
    with Accelerator():
        assert type(torch.empty(2, device="meta")) is torch.Tensor
    with pytest.raises(NotImplementedError, match="meta"):
        torch.ones(2).to(DEVICE).cpu()


def test_a_pipeline_runs_there(right):
    with Accelerator():
        found = image(small.image_pipeline().to(DEVICE))
    torch.testing.assert_close(near(found), right)


@pytest.mark.parametrize("offload", offloads)
def test_a_pipeline_runs_offloaded(offload, right):
    with Accelerator():
        pipe = offloads[offload](small.image_pipeline())
        at_rest = {p.device for p in pipe.unet.parameters()}
        found = image(pipe)
        assert pipe._execution_device == DEVICE
    assert at_rest == {torch.device("meta" if offload == "sequential" else "cpu")}
    torch.testing.assert_close(near(found), right)
