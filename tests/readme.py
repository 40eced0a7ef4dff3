"""Write the parts of README.md that are made of the code and of outputs/.

    python tests/readme.py

The table of families is made of their docstrings and of outputs/results.csv, the map of the
first line of every module.
"""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
GROUPS = {
    "ground": "_checks storage",
    "signal": "signals waves beats",
    "data": "dataset mitbih_csv recordings mitbih_records ptbxl demo download",
    "representation": "grids layers spectrograms",
    "models": "blocks signal_models image_models fused_models models presets",
    "training": "batches metrics ec57 saved_models training",
    "telling": "plots pages report compare",
    "explaining": "keras_graph attribution faithfulness explain",
    "using": "streams annotate record_page export",
    "searching": "search_space search_trials search_oracle search",
    "outside": "bundle __main__ __init__",
}


def module_map():
    """A Markdown line per module, group by group: its name and the first line of its docstring."""
    lines = []
    for group, names in GROUPS.items():
        for name in names.split():
            tree = ast.parse((ROOT / "ecg_keras" / f"{name}.py").read_text(encoding="utf-8"))
            first = ast.get_docstring(tree).splitlines()[0]
            lines.append(f"| {group} | `{name}` | {first} |")
            group = ""
    return "\n".join(["| group | module | what it does |", "|---|---|---|", *lines])


def with_parts(text):
    """README.md with its generated parts made anew."""
    from ecg_keras.models import families
    from ecg_keras.report import families_table

    table = families_table(families(), ROOT / "outputs" / "results.csv").strip()
    for name, part in (("families", table), ("map", module_map())):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(
            pattern, lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text, flags=re.S
        )
    return text


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(with_parts(file.read_text(encoding="utf-8")), encoding="utf-8")
