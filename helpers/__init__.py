"""Stepwise: published vision methods, one readable file each, and the tools that the notebooks share."""
