"""Recipe of data/models/toy-swin-wide: a small `SwinForImageClassification`, taught as toy-vit-wide is.

`python -m helpers.recipes.toy_swin_wide` runs it; checkpoints lie under .recipes/toy-swin-wide.
"""

from . import wide_families

NAME = "toy-swin-wide"


def main() -> None:
    wide_families.main(NAME, __doc__)


if __name__ == "__main__":
    main()
