"""With STEPWISE_TIMES=<file> every test writes a line there, and every page that nbval runs one with its processor seconds; `tests/times.py` makes a table."""

import json
import os
import resource
import time

import pytest

TIMES = os.environ.get("STEPWISE_TIMES")
before_page = {}


def ended_children():
    """Processor seconds of the processes that this one started and that have ended, kernels among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    if not TIMES:
        return (yield)
    began = time.perf_counter()
    before_page.setdefault(item.path, ended_children())
    done = yield
    lines = []
    if item.path.suffix != ".ipynb":
        lines.append({"test": item.nodeid, "seconds": time.perf_counter() - began})
    elif nextitem is None or nextitem.path != item.path:  # the page's kernel has just ended
        lines.append({"page": item.path.stem, "seconds": ended_children() - before_page[item.path]})
    with open(TIMES, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return done
