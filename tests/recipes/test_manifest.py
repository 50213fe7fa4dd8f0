"""The manifest lists models and studies, and is in step with them."""

import json

from helpers.recipes import manifest


def test_sizes_and_hashes_of_models_and_studies(monkeypatch, tmp_path):
    monkeypatch.setattr(manifest, "NOT_KEPT", ("peer",))
    for path in ("models/m/x.bin", "models/peer/x.bin", "studies/s.csv", "studies/s.toml", "studies/s.csv.partial", "elsewhere/x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"abc")
    manifest.write_manifest(tmp_path)
    expected = {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert json.loads((tmp_path / "manifest.json").read_text()) == dict.fromkeys(["models/m/x.bin", "studies/s.csv", "studies/s.toml"], expected)


def test_manifest_is_in_step():
    assert json.loads((manifest.DATA / "manifest.json").read_text()) == manifest.manifest_of(manifest.DATA)
