"""data/manifest.json: size and SHA-256 of every trained model's files and of every study's table."""

import hashlib
import json
import os
from pathlib import Path

from ..arguments import instance
from ..checkout import ROOT

__all__ = ["DATA", "manifest_of", "write_manifest"]

DATA = ROOT / "data"
NOT_KEPT: tuple[str, ...] = ()  # models that were only compared with: their numbers are kept as studies, their weights are not (.gitignore)


def manifest_of(data: Path) -> dict[str, dict]:
    """Size and SHA-256 of every file under data/models and data/studies, but for models that are not kept. ValueError without a folder `data`."""
    if not instance("data", data, Path, "a Path").is_dir():
        raise ValueError(f"data must be a folder, got {str(data)!r}, which is none")
    files = sorted(p for room in ("models", "studies") for p in (data / room).rglob("*") if p.is_file() and ".partial" not in p.name)
    files = [p for p in files if p.relative_to(data).parts[1] not in NOT_KEPT]
    return {str(p.relative_to(data)): {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in files}


def write_manifest(data: Path = DATA) -> None:
    """Bring data/manifest.json in step with the files."""
    text = json.dumps(manifest_of(data), indent=1) + "\n"
    partial = data / "manifest.partial"
    partial.write_text(text)
    os.replace(partial, data / "manifest.json")
