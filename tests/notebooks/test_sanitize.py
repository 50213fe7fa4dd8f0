"""The sanitiser masks the number after the sign for "about", and nothing else."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest


def sanitize(text):
    config = ConfigParser(interpolation=None)
    config.read(Path(__file__).parent / "sanitize.cfg", encoding="utf-8")
    for section in config.sections():
        text = re.sub(config[section]["regex"], config[section]["replace"], text)
    return text


@pytest.mark.parametrize(
    "text, masked",
    [
        ("speed-up ≈ 2.31x", "speed-up ≈ #"),
        ("speed-up ≈ 2.31x, calls 15", "speed-up ≈ # calls 15"),
        ("PSNR ≈ 31.2 ± 0.4 dB (n = 72)", "PSNR ≈ # dB (n = 72)"),
        ("error ≈ -1.2e-05 ± 3e-07", "error ≈ #"),
        ("gain ≈ 0.46 [0.31, 0.62] dB (n = 48)", "gain ≈ # dB (n = 48)"),
        ("loss ≈ -1.14 [-1.32, -9e-05], n = 3 [see 4, 5]", "loss ≈ # n = 3 [see 4, 5]"),
        ("| ≈ 12 % | 3 |", "| ≈ # % | 3 |"),
        ("≈12, then ≈ 1,200.5 ms", "≈ # then ≈ # ms"),
        ("calls 15 of 30, verdict holds", "calls 15 of 30, verdict holds"),
        ("<Figure size 700x320 with 2 Axes>", "<Figure>"),
        ("value ≈ nan", "value ≈ nan"),
        ("python 3.13.0, torch 2.13.0+cu130, diffusers 0.42.1, numpy 2.4.6\nright 12", "versions\nright 12"),
    ],
)
def test_what_is_masked(text, masked):
    assert sanitize(text) == masked
