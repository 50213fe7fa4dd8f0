"""What `make lab` and `make author` add to the reader's own Jupyter settings; Jupyter defines `c`."""

import warnings

from helpers.page.lab import EXTENSIONS, TEMPLATES, before_save

warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")  # Jupyter reads its settings twice

c.ContentsManager.pre_save_hook = before_save  # noqa: F821
c.HTMLExporter.template_name = "stepwise"  # noqa: F821
c.HTMLExporter.extra_template_basedirs = [str(TEMPLATES)]  # noqa: F821
c.LabApp.extra_labextensions_path = [str(EXTENSIONS)]  # noqa: F821
c.LabApp.news_url = None  # noqa: F821  no question about news, and no call for them
c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"  # noqa: F821
