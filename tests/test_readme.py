"""The README says what the code and outputs/ say, and stays short."""

import ast
import graphlib
import pathlib
import re

import pytest
from readme import GROUPS, module_map, with_parts

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_parts_are_those_of_the_code_and_of_the_results():
    assert with_parts(README) == README, "write them anew with: python tests/readme.py"


def test_the_map_names_every_module_once():
    named = " ".join(GROUPS.values()).split()
    assert sorted(named) == sorted(file.stem for file in (ROOT / "ecg_keras").glob("*.py"))
    assert len(named) <= 45


def test_a_first_line_is_short_enough_for_the_map():
    assert max(len(line) for line in module_map().splitlines()) <= 120


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) < 200
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_a_link_leads_to_a_file_of_the_repository(link):
    assert link.startswith("https://") or (ROOT / link).exists()


def test_imports_go_one_way_over_at_most_14_floors():
    modules = {file.stem: file for file in (ROOT / "ecg_keras").glob("*.py")}
    imports = {}
    for name, file in modules.items():
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        own = [node for node in froms if node.module.split(".")[0] == "ecg_keras"]
        full = [f"{node.module}.{alias.name}" for node in own for alias in node.names]
        imports[name] = {path.split(".")[1] for path in full} & set(modules)
    order = graphlib.TopologicalSorter(imports)
    order.prepare()  # raises CycleError, which names the circle
    floors = 0
    while ready := order.get_ready():
        order.done(*ready)
        floors += 1
    assert floors <= 14
