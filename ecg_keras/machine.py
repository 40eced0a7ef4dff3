"""Say what a run was made on and what it took.

Conventions
-----------
Memory is in MB of 10^6 bytes. Nothing here needs a backend to be loaded that is not.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import sys


def peak_rss_mb():
    """Most memory this process ever held, in MB of 10^6 bytes; None where nothing says it."""
    try:
        import resource
    except ImportError:  # Windows, where psutil says it
        with contextlib.suppress(ImportError, AttributeError):
            import psutil

            return psutil.Process().memory_info().peak_wset / 1e6
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def device():
    """What the backend computes on: the GPUs' names, else the processor's and its cores."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        names = [
            tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
        ]
    elif backend == "jax":
        import jax

        names = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    else:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return (
        ", ".join(names)
        or f"{_processor()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    )


def _processor():
    """The processor's name as the system gives it."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions():
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in (
        "ecg_keras",
        "keras",
        "tensorflow",
        "jax",
        "torch",
        "numpy",
        "scipy",
        "scikit-learn",
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
