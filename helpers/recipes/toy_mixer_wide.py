"""Recipe of data/models/toy-mixer-wide: a small `MixerForImageClassification`, taught as toy-vit-wide is.

`python -m helpers.recipes.toy_mixer_wide` runs it; checkpoints lie under .recipes/toy-mixer-wide.
"""

from . import wide_families

NAME = "toy-mixer-wide"


def main() -> None:
    wide_families.main(NAME, __doc__)


if __name__ == "__main__":
    main()
