"""Recipe of data/models/toy-convnext-wide: a small `ConvNextForImageClassification`, taught as toy-vit-wide is.

`python -m helpers.recipes.toy_convnext_wide` runs it; checkpoints lie under .recipes/toy-convnext-wide.
"""

from . import wide_families

NAME = "toy-convnext-wide"


def main() -> None:
    wide_families.main(NAME, __doc__)


if __name__ == "__main__":
    main()
