"""What is measured, and against what: metrics, probabilities, correspondence, matching, mixing, caches, tuning, robustness, statistics.

May import toyworld, datasets, models and methods.
"""
