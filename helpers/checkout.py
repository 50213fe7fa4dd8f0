"""What comes with a clone of the repository and not with an installed package: data/, notebooks/, the tests. Every room but methods may import this file."""

from pathlib import Path

__all__ = ["ENCODERS_AND_CLASSIFIERS", "ROOT", "TRAINED", "require"]

ROOT = Path(__file__).resolve().parents[1]
TRAINED = (  # names under data/models; each has a recipe, which makes the model where its folder is not there
    "toy-bench", "toy-cogvideox", "toy-contrast", "toy-convnext-wide", "toy-judge", "toy-latte", "toy-mardini", "toy-mardini-wide", "toy-mixer-wide", "toy-sd",
    "toy-swin-wide", "toy-vit", "toy-vit-wide",
)  # fmt: skip
ENCODERS_AND_CLASSIFIERS = (  # names on the hub; here, because studies do not follow this module
    "facebook/dino-vits16", "google/vit-base-patch16-224-in21k", "google/vit-large-patch16-224-in21k", "google/vit-huge-patch14-224-in21k",
    "facebook/vit-mae-base", "microsoft/swin-base-patch4-window7-224-in22k", "microsoft/resnet-50",
)  # fmt: skip
_MARKS = {"data": "claims.toml", "notebooks": "00_start_here.ipynb", "tests": "test_makefile.py"}  # other packages may bring a folder of the same name


def require(what: str, folder: str = "data") -> None:
    """Raise FileNotFoundError, one sentence, where the package was installed without its clone and `what` needs one of its folders.

    TypeError for a `what` that is no text, ValueError for another folder than data, notebooks and tests.
    """
    if not isinstance(what, str):
        raise TypeError(f"what must be a text, got {type(what).__name__}")
    if folder not in tuple(_MARKS):
        raise ValueError(f"folder must be one of {', '.join(_MARKS)}, got {folder!r}")
    if not (ROOT / folder / _MARKS[folder]).is_file():
        raise FileNotFoundError(f"{what} needs {folder}/, which comes with a clone of the repository: installed without its checkout")
