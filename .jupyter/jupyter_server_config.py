"""What `make lab` and `make author` add to the reader's own Jupyter settings; Jupyter defines `c`."""

from helpers.page.lab import before_save

c.ContentsManager.pre_save_hook = before_save  # noqa: F821
