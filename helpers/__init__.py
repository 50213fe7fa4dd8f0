"""Stepwise: published vision methods, one readable file each, and the tools that the notebooks share."""

import logging
import os
import sys

# transformers warns that torchvision is missing; this collection does without it on purpose, and the fallback is the one it wants
logging.getLogger("transformers.utils.import_utils").addFilter(lambda record: "requires torchvision" not in record.getMessage())


def _busy() -> int:
    """About how many cores other work has, at this moment where the system says it."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            return int(file.read().split()[3].split("/")[0]) - 1  # this process runs as well
    except (OSError, ValueError, IndexError):
        return round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0


def _share_the_machine() -> None:
    """Keep small models quick beside other work: where more threads wait for each other than cores are free, a clip can take thirty times as long.

    Waiting threads sleep instead of spinning, which costs nothing that could be measured; that must be said before torch is loaded. Where torch is there
    already, it gets the cores that are free. What the user has set, by OMP_NUM_THREADS, MKL_NUM_THREADS, OMP_WAIT_POLICY or torch.set_num_threads, stays.
    """
    if {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY"} & os.environ.keys():
        return
    if "torch" not in sys.modules:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        return
    torch, cores = sys.modules["torch"], len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.get_num_threads() in (cores, cores // 2):  # as torch begins
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - _busy())))


_share_the_machine()
