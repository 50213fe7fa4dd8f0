"""Page 10: a linear head, scales and shifts, and full fine-tuning on three families of networks: convolutions, windows of attention, and MLPs alone.

The three networks were trained on the pictures of the bench's transformer. A case is a network, a task and a method; learning rates, training sets and tests
as in the study `scale_and_shift`.
"""

from functools import lru_cache

import torch
from torch import nn
from transformers import ConvNextForImageClassification, SwinForImageClassification

from ..measures import tuning
from ..models import zoo
from ..models.mixers import MixerForImageClassification
from .runner import Study
from .scale_and_shift import TOLERANCE, measured, pairs_of

__all__ = ["FAMILIES", "METHODS", "STUDY", "TASKS"]

FAMILIES = {"toy-convnext-wide": "ConvNeXt", "toy-swin-wide": "Swin", "toy-mixer-wide": "MLP-Mixer"}
TASKS = ("mnist", "category behind a square")
METHODS = ("linear", "SSF", "full")


def cases() -> list[dict]:
    return [dict(network=network, task=task, method=method) for network in FAMILIES for task in TASKS for method in METHODS]


@lru_cache(maxsize=1)
def network(name: str) -> nn.Module:
    kind = {"ConvNeXt": ConvNextForImageClassification, "Swin": SwinForImageClassification, "MLP-Mixer": MixerForImageClassification}[FAMILIES[name]]
    return kind.from_pretrained(zoo.folder(name), dtype=torch.float32, local_files_only=True).eval()


def everything(model: nn.Module):
    return model.requires_grad_(True).parameters()


def head_only(model: nn.Module):
    return model.classifier.requires_grad_(True).parameters()


def measure(case: dict) -> dict:
    """As in `scale_and_shift`."""
    attach = {"linear": head_only, "SSF": pairs_of({}), "full": everything}[case["method"]]
    return measured(network(case["network"]), attach, case["task"], tuning.METHODS[case["method"]].rates)


STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, models=tuple(FAMILIES), sample_seconds=10)
