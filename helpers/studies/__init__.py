"""Recorded experiments, one module a page, and what runs them: a study's cases are measured once, kept in data/studies, and measured again by samples.

May import toyworld, datasets, models, methods, measures and recipes.
"""

from .runner import Study, load, remeasure

__all__ = ["Study", "load", "remeasure"]
