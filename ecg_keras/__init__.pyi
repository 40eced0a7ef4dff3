"""The public names, for editors and for the lazy import."""

from .annotate import annotate as annotate
from .annotate import annotate_folder as annotate_folder
from .compare import compare as compare
from .dataset import ECGDataset as ECGDataset
from .dataset import split_dataset as split_dataset
from .demo import load_demo as load_demo
from .ec57 import ec57 as ec57
from .explain import explain as explain
from .export import export as export
from .grids import ScalogramGrid as ScalogramGrid
from .grids import SpectrogramGrid as SpectrogramGrid
from .grids import SpectrumGrid as SpectrumGrid
from .layers import model_card as model_card
from .mitbih_csv import load_mitbih_csv as load_mitbih_csv
from .mitbih_records import load_beats as load_beats
from .mitbih_records import load_mitbih_records as load_mitbih_records
from .mitbih_records import load_wfdb_beats as load_wfdb_beats
from .models import MODELS as MODELS
from .models import build_model as build_model
from .presets import PRESETS as PRESETS
from .ptbxl import load_ptbxl as load_ptbxl
from .ptbxl import load_ptbxl_part as load_ptbxl_part
from .report import inspect as inspect
from .saved_models import list_pretrained as list_pretrained
from .saved_models import load_model as load_model
from .saved_models import load_pretrained as load_pretrained
from .saved_models import predict as predict
from .search import search as search
from .spectrograms import to_scalograms as to_scalograms
from .spectrograms import to_spectra as to_spectra
from .spectrograms import to_spectrograms as to_spectrograms
from .streams import StreamingAnnotator as StreamingAnnotator
from .training import evaluate_and_report as evaluate_and_report
from .training import fit_and_report as fit_and_report
from .waves import delineate as delineate

__version__: str
