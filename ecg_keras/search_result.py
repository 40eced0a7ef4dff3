"""Hold what a search found, and write it as a program to paste.

Conventions
-----------
Options are those of `build_model` and of `fit_and_report`, under their own names; a value is a validation
figure, larger is better.
"""

import dataclasses
import pathlib


@dataclasses.dataclass
class Search:
    """What a search found.

    Attributes
    ----------
    model : str
        The family.
    model_options, fit_options : dict
        Of the winner, for `build_model` and `fit_and_report`.
    leaderboard : pandas.DataFrame
        One row per trial, best first.
    value : float or None
        The winner's validation figure; None where no trial ended and the options are the defaults.
    out_dir : pathlib.Path
        The folder.
    ended : str
        Why the search ended: "max_trials", "time" or "exhausted".
    report : Report or None
        Of the winner, where `test` was given.
    """

    model: str
    model_options: dict
    fit_options: dict
    leaderboard: object
    value: float | None
    out_dir: pathlib.Path
    ended: str
    report: object = None

    def code(self):
        """The winner's settings as Python to paste."""
        return code(self.model, self.model_options, self.fit_options)


def code(model, model_options, fit_options):
    """Options as a program to paste.

    Examples
    --------
    >>> print(code("cnn1d", {"filters": (8, 16)}, {"epochs": 3}))
    from ecg_keras import build_model, fit_and_report
    <BLANKLINE>
    model = build_model("cnn1d", like=train, filters=(8, 16))
    report = fit_and_report(model, train, val, test, out_dir="outputs/best", epochs=3)
    """
    names = sorted(
        {
            type(value).__name__
            for value in model_options.values()
            if dataclasses.is_dataclass(value)
        }
    )
    first = [
        f'"{model}"',
        "like=train",
        *(f"{name}={value!r}" for name, value in model_options.items()),
    ]
    second = ["model", "train", "val", "test", 'out_dir="outputs/best"']
    second += [f"{name}={value!r}" for name, value in fit_options.items()]
    return (
        f"from ecg_keras import {', '.join([*names, 'build_model', 'fit_and_report'])}\n\n"
        f"{_call('model = build_model', first)}\n{_call('report = fit_and_report', second)}"
    )


def _call(start, arguments):
    """A call on one line, or with an argument per line where that is long."""
    line = f"{start}({', '.join(arguments)})"
    return (
        line
        if len(line) <= 100
        else f"{start}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"
    )
