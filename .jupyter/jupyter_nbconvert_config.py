"""`jupyter nbconvert --to html` in a terminal of `make lab` does as its menu; Jupyter defines `c`."""

from helpers.page.lab import TEMPLATES

c.HTMLExporter.template_name = "stepwise"  # noqa: F821
c.HTMLExporter.extra_template_basedirs = [str(TEMPLATES)]  # noqa: F821
