"""What stands beside the code: README's commands and paths exist, and the files for other services call them on the Pythons that the package names."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)]
TARGETS = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
TEXTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".github/workflows/tests.yml", ".devcontainer/devcontainer.json"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_of_make_exists(name):
    named = set(re.findall(r"(?:^|[`\"]|^ +(?:- run: )?)make ([a-z]+)", read(name), re.M))
    assert named and named <= TARGETS


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_to_a_file_leads_to_one(name):
    text = re.sub(r"`[^`]*`", "", read(name))
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", [*TEXTS, "CITATION.cff", "environment.yml", "pyproject.toml", "constraints.txt", "Makefile", ".ci/run"])
def test_no_package_index_is_named(name):
    assert not re.search(r"pypi\.org|pythonhosted|download\.pytorch|anaconda\.org|ghcr\.io|mcr\.microsoft|docker\.io", read(name))


def test_the_workflow_runs_readme_s_commands_on_every_python():
    job = yaml.safe_load(read(".github/workflows/tests.yml"))["jobs"]["commands"]
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    ran = "\n".join(step.get("run", "") for step in job["steps"])
    commands = re.search(r"^## Two commands$.*?^```\n(.*?)^```$", read("README.md"), re.M | re.S)[1]
    assert [re.match("make [a-z]+", line)[0] for line in commands.splitlines()] == ["make lab", "make test"]
    assert 'make lab ARGS="--no-browser --port 8899"' in ran and 'make lab ARGS="--no-browser --port 8899"' in read("README.md")
    assert re.search(r"^make test$", ran, re.M)


def test_the_container_has_a_python_that_the_package_names():
    container = json.loads(read(".devcontainer/devcontainer.json"))
    name, version = container["image"].split(":")
    assert name == "python" and version in PYTHONS and container["postCreateCommand"] == "make env"


def test_the_citation_is_of_this_version_and_of_the_papers_in_readme():
    cited = yaml.safe_load(read("CITATION.cff"))
    assert (cited["cff-version"], str(cited["version"]), cited["license"]) == ("1.2.0", PROJECT["version"], PROJECT["license"])
    assert f"## {PROJECT['version']}" in read("CHANGELOG.md")
    papers = set(re.findall(r"arxiv\.org/abs/([\d.]+)", read("README.md")))
    assert {paper["identifiers"][0]["value"] for paper in cited["references"]} == {f"arXiv:{number}" for number in papers}
    assert all(paper["title"] and paper["authors"] and paper["year"] for paper in cited["references"])
