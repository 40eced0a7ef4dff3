"""ECG classification in Keras, from a public file to an honest report.

Four functions are the whole of the main job::

    from ecg_keras import load_mitbih_csv, to_spectrograms, build_model, fit_and_report

Nothing heavy is imported until a function needs it. As soon as Keras is there, the layers of this
package are registered with it: after ``import ecg_keras``, ``keras.saving.load_model`` opens a
saved model.
"""

import importlib
import sys

import lazy_loader
import wrapt

__version__ = "0.2.0"

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name):
    """A public name, imported now; for a function with its module's name the callable module."""
    value = _find(name)
    return globals().update(_modules()) or globals().get(name, value)


def _modules():
    """Imported modules that have a public function's name."""
    loaded = ((name, sys.modules.get(f"{__name__}.{name}")) for name in __all__)
    return {name: module for name, module in loaded if module}


globals().update(_modules())  # where lazy_loader has imported all at once (EAGER_IMPORT)


# at once where Keras is imported already, else when its import has ended: the layers need all of it
wrapt.register_post_import_hook(lambda keras: importlib.import_module("ecg_keras.layers"), "keras")
