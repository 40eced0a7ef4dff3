"""Without Keras Tuner the search says which extra installs it."""

import subprocess
import sys


def test_without_keras_tuner_a_search_names_its_extra(tmp_path):
    program = (
        "import sys; sys.modules['keras_tuner'] = None\n"
        "import numpy as np\n"
        "from ecg_keras import ECGDataset, search\n"
        "ds = ECGDataset(np.zeros((4, 187)), [0, 1, 0, 1], classes='NV', fs=125)\n"
        "try:\n"
        f"    search(ds, ds, out_dir={str(tmp_path / 'search')!r}, max_trials=1)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'ecg_keras[tune]'" in done.stdout, done.stderr[-2000:]
