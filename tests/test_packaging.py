"""What setup.cfg promises is there: its data files, and its extras are those that errors name."""

import ast
import configparser
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
BY_USERS = {"tensorflow": "Keras imports its own backend"}  # extras that no require() names


def setup(section):
    """A section of setup.cfg: option to its lines."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return {name: value.split("\n") for name, value in parser[section].items()}


def required():
    """(module, extra) of every call of require() in the package."""
    calls = set()
    for file in (ROOT / "ecg_keras").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "require":
                calls.add(tuple(argument.value for argument in node.args))
    return calls


def test_every_pattern_of_package_data_matches_a_file():
    for package, lines in setup("options.package_data").items():
        for pattern in ", ".join(lines).split(", "):
            assert list((ROOT / package).glob(pattern)), f"{package}: {pattern} matches no file"


def test_every_extra_is_named_where_its_package_is_missing():
    extras, calls = setup("options.extras_require"), required()
    assert {extra for _, extra in calls} | set(BY_USERS) == set(extras) - {"test"}
    for module, extra in calls:
        packages = [line.split(">=")[0].replace("-", "_") for line in extras[extra]]
        assert module.split(".")[0] in packages, f"{extra} does not install {module}"


def test_the_extra_for_tests_holds_all_others_but_engines_of_clusters():
    extras = setup("options.extras_require")
    for extra, lines in extras.items():
        if extra in (
            "ray",
            "dask",
        ):  # hundreds of megabytes; their tests skip where they are absent
            continue
        assert set(lines) <= set(extras["test"]), extra


def test_the_readme_names_every_extra_and_no_other():
    text = (ROOT / "README.md").read_text()
    text = " ".join(text.split())
    listed = text.split("Optional parts name their extra when they")[1].split(". ")[0]
    extras = set(setup("options.extras_require")) - {"test"}
    assert set(listed.split("`")[1::2]) == extras - set(BY_USERS)
