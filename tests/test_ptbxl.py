"""PTB-XL: the official layout, its labels, folds and damaged files."""

import numpy as np
import pytest
from conftest import real_data

from ecg_keras.ptbxl import LEADS, load_ptbxl, load_ptbxl_part, parse_folds

pytestmark = pytest.mark.numeric

_STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal,1.0,,,NORM,NORM
IMI,inferior MI,1.0,,,MI,IMI
AMI,anterior MI,1.0,,,MI,AMI
NDT,T changes,1.0,1.0,,STTC,STTC
LVH,hypertrophy,1.0,,,HYP,LVH
CLBBB,block,1.0,,,CD,CLBBB
ABQRS,abnormal QRS,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,fibrillation,,,1.0,,
"""
_CODES = [
    "{'NORM': 100.0, 'SR': 0.0}",
    "{'IMI': 0.0, 'NDT': 35.0, 'SR': 0.0}",  # a likelihood of 0 counts
    "{'AMI': 15.0, 'IMI': 50.0}",
    "{'SR': 0.0, 'ABQRS': 0.0}",  # no superclass
    "{'LVH': 100.0}",
    "{'CLBBB': 100.0}",
]


def _write_record(path, microvolts, fs, names=LEADS, gain="1000.0(0)/mV"):
    """A WFDB record of plain 16 bit samples, as PTB-XL has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    microvolts.astype("<i2").tofile(f"{path}.dat")
    lines = [f"{path.name} {len(names)} {fs} {len(microvolts)}"]
    for column, name in zip(microvolts.T, names):
        checksum = int(column.astype(np.int64).sum()) % 65536
        lines.append(f"{path.name}.dat 16 {gain} 16 0 {column[0]} {checksum} 0 {name}")
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path):
    """A PTB-XL of thirty records, three in each fold, one patient each; both rates."""
    rng = np.random.default_rng(0)
    rows = ["ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr"]
    for i in range(30):
        lr, hr = f"records100/00000/{i + 1:05d}_lr", f"records500/00000/{i + 1:05d}_hr"
        age = {0: "300.0", 1: ""}.get(i, f"{40 + i}.0")
        rows.append(
            f'{i + 1},{1000 + i}.0,{age},{i % 2},"with a, comma","{_CODES[i % 6]}",'
            f"{i // 3 + 1},{lr},{hr}"
        )
        _write_record(tmp_path / lr, rng.integers(-2000, 2000, (1000, 12)), 100)
        _write_record(tmp_path / hr, rng.integers(-2000, 2000, (5000, 12)), 500)
    (tmp_path / "ptbxl_database.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "scp_statements.csv").write_text(_STATEMENTS)
    return tmp_path


def _edit(folder, old, new):
    path = folder / "ptbxl_database.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_parts_follow_the_folds_and_signals_are_millivolts(folder):
    train, val, test = load_ptbxl(folder)
    assert (len(train), len(val), len(test)) == (
        20,
        3,
        2,
    )  # 24, 3, 3 less those without a superclass
    assert test.records.tolist() == ["29", "30"] and test.patients.tolist() == ["1028", "1029"]
    record = np.fromfile(folder / "records100/00000/00001_lr.dat", "<i2").reshape(-1, 12)
    np.testing.assert_allclose(train.x[0], record / 1000, rtol=1e-6)
    assert train.leads == LEADS and train.unit == "mV" and train.fs == 100


def test_signals_agree_with_wfdb(folder):
    wfdb = pytest.importorskip("wfdb")
    part = load_ptbxl_part(folder, folds=10, sampling_rate=500)
    for i, name in enumerate(part.records):
        path = folder / f"records500/00000/{int(name):05d}_hr"
        np.testing.assert_allclose(part.x[i], wfdb.rdrecord(str(path)).p_signal, atol=1e-6)  # mV


def test_every_code_counts_whatever_its_likelihood(folder):
    part = load_ptbxl_part(folder, folds="1-2")
    assert part.classes == ("NORM", "MI", "STTC", "CD", "HYP") and part.multi_label
    np.testing.assert_array_equal(
        part.y,
        [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]],
    )
    assert any("1 of 6 records left out" in note for note in part.notes)


def test_single_superclass_task_has_class_numbers(folder):
    part = load_ptbxl_part(folder, folds="1-2", task="superclass_single")
    assert part.y.tolist() == [0, 1, 4, 3] and not part.multi_label


def test_the_old_spelling_of_a_task_still_works(folder):
    with pytest.warns(DeprecationWarning, match="'superclass_single' now"):
        part = load_ptbxl_part(folder, folds="1-2", task="superclass-single")
    assert part.preparation["task"] == "superclass_single" and not part.multi_label


def test_other_tasks_take_their_classes_from_the_statements(folder):
    tasks = {
        task: load_ptbxl_part(folder, folds="1-2", task=task)
        for task in ("subclass", "form", "rhythm")
    }
    assert tasks["subclass"].classes == ("AMI", "CLBBB", "IMI", "LVH", "NORM", "STTC")
    assert tasks["subclass"].y[2].tolist() == [1, 0, 1, 0, 0, 0]
    assert tasks["form"].classes == ("NDT", "ABQRS") and len(tasks["form"]) == 2
    assert tasks["rhythm"].classes == ("SR", "AFIB") and len(tasks["rhythm"]) == 3


def test_age_over_89_and_missing_ages_are_replaced_and_counted(folder):
    part = load_ptbxl_part(folder, folds=1)
    assert part.metadata.tolist() == [[90, 0], [60, 1], [42, 0]]
    assert any("1 records are older than 89" in note for note in part.notes)
    assert any("1 records have no age" in note for note in part.notes)


def test_leads_are_picked_by_name_and_files_of_another_order_are_sorted(folder):
    path = folder / "records100/00000/00001_lr"
    before = load_ptbxl_part(folder, folds=1).x[0]
    _write_record(path, np.rint(before[:, ::-1] * 1000).astype(int), 100, names=LEADS[::-1])
    np.testing.assert_array_equal(load_ptbxl_part(folder, folds=1).x[0], before)
    part = load_ptbxl_part(folder, folds=1, leads=("V6", "aVR"))
    assert part.leads == ("V6", "AVR")
    np.testing.assert_array_equal(part.x[0], before[:, [11, 3]])


def test_other_gains_are_scaled(folder):
    path = folder / "records100/00000/00001_lr"
    _write_record(path, np.tile(np.arange(1000)[:, None], (1, 12)), 100, gain="200.0(100)/mV")
    np.testing.assert_allclose(
        load_ptbxl_part(folder, folds=1).x[0, :, 0], (np.arange(1000) - 100) / 200, atol=1e-6
    )


def test_second_load_comes_from_the_cache_and_notices_a_change(folder, monkeypatch):
    first = load_ptbxl_part(folder, folds=1)
    with monkeypatch.context() as patch:
        patch.setattr("ecg_keras.ptbxl.read_record", None)  # would fail if called
        np.testing.assert_array_equal(load_ptbxl_part(folder, folds=1).x, first.x)
    _write_record(folder / "records100/00000/00001_lr", np.ones((1000, 12), int), 100)
    (folder / "records100/00000/00001_lr.dat").touch()
    assert load_ptbxl_part(folder, folds=1).x[0].max() == np.float32(0.001)


def test_validation_as_a_fraction_keeps_patients_together(folder):
    _edit(folder, ",1001.0,", ",1000.0,")  # two records of one patient
    train, val, test = load_ptbxl(folder, folds="1-9/0.2/10", seed=1)
    assert (
        len(train) + len(val) == 23
        and 0 < len(val) < 10
        and not set(train.patients) & set(val.patients)
    )


def test_folds_are_read_from_text_and_tuples():
    assert (
        parse_folds("1-7/8/9")
        == parse_folds((range(1, 8), 8, [9]))
        == ((1, 2, 3, 4, 5, 6, 7), (8,), (9,))
    )
    assert parse_folds("1,3-4/0.1/9") == ((1, 3, 4), 0.1, (9,))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ("1-8/9", "train, validation and test"),
        ("1-8/8/9", "8 is in two parts"),
        ("1-8/9/11", "from 1 to 10"),
        ("1-8/a/9", "not understood"),
        ("1-8/1.5/9", "not understood"),
        ((range(1, 9), 1.5, 9), "between 0 and 1"),
    ],
)
def test_wrong_folds_are_refused(folds, message):
    with pytest.raises(ValueError, match=message):
        parse_folds(folds)


def test_a_part_without_records_says_which_folds_there_are(folder):
    path = folder / "ptbxl_database.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:25]) + "\n")  # folds 1 to 8
    with pytest.raises(ValueError, match="folds 10: .* has folds 1-8"):
        load_ptbxl_part(folder, folds=10)
    assert "folds 9-10 have no records here" in load_ptbxl_part(folder, folds="8-10").notes


def test_patients_in_two_parts_are_refused(folder):
    _edit(folder, ",1028.0,", ",1000.0,")
    with pytest.raises(ValueError, match="share 1 patients"):
        load_ptbxl(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "ptbxl_database.csv").unlink(), "expected ptbxl_database.csv"),
        (lambda f: (f / "scp_statements.csv").unlink(), "scp_statements.csv is missing"),
        (
            lambda f: (f / "records100/00000/00002_lr.dat").unlink(),
            "1 files .* missing, first .*00002_lr.dat",
        ),
        (lambda f: _edit(f, ",records500/00000/00002_hr", ""), "row 3 has no"),
        (lambda f: _edit(f, "strat_fold", "fold"), "columns strat_fold are missing"),
        (lambda f: _edit(f, "{'IMI': 0.0", "{'IMI' 0.0"), "scp_codes of record 2"),
        (lambda f: _edit(f, "\n2,", "\n1,"), "ecg_id 1 is there twice"),
        (lambda f: _cut(f / "ptbxl_database.csv", 40), "cut"),
        (
            lambda f: _cut(f / "records100/00000/00003_lr.dat", 24),
            "00003_lr.dat: expected 24000 bytes, got 23976",
        ),
        (
            lambda f: _flip(f / "records100/00000/00003_lr.dat"),
            "00003_lr.dat: lead I does not match its checksum",
        ),
        (
            lambda f: _cut(f / "records100/00000/00003_lr.hea", 60),
            "00003_lr.hea: not a whole WFDB header",
        ),
        (
            lambda f: _write_record(f / "records100/00000/00001_lr", np.ones((999, 12), int), 100),
            "00001_lr.hea: expected 1000 samples",
        ),
        (
            lambda f: _write_record(
                f / "records100/00000/00001_lr", np.ones((1000, 11), int), 100, names=LEADS[1:]
            ),
            "00001_lr.hea: leads I are missing",
        ),
    ],
)
def test_damaged_folders_are_refused_by_name(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_ptbxl_part(folder, folds="1-10")


def _cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:-n_bytes])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def test_an_unknown_code_is_a_counted_warning(folder):
    _edit(folder, "{'NORM': 100.0,", "{'NORM': 100.0, 'XYZ': 50.0,")
    with pytest.warns(
        UserWarning, match=r"'XYZ' is not in scp_statements.csv .* 1 records \(first: 1\)"
    ):
        assert len(load_ptbxl_part(folder, folds=1)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "superklass"}, "task='superklass' is not known"),
        ({"sampling_rate": 250}, "sampling_rate=250"),
        ({"leads": ("I", "V7")}, "leads must be different names"),
    ],
)
def test_wrong_options_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_ptbxl_part(folder, folds=1, **options)


def test_the_folder_above_is_enough_and_a_strange_one_says_what_it_holds(folder, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    (above / "ptb-xl").symlink_to(folder)
    np.testing.assert_array_equal(
        load_ptbxl_part(above, folds=1).x, load_ptbxl_part(folder, folds=1).x
    )
    with pytest.raises(ValueError, match="there is no such folder"):
        load_ptbxl(above / "nowhere")
    with pytest.raises(ValueError, match="below, found 00000"):
        load_ptbxl(folder / "records100")


def test_a_record_in_another_format_is_read_by_wfdb(folder):
    wfdb = pytest.importorskip("wfdb")
    before = load_ptbxl_part(folder, folds=1).x
    options = {"fs": 100, "units": ["mV"] * 12, "sig_name": list(LEADS), "fmt": ["24"] * 12}
    scale = {"adc_gain": [1000.0] * 12, "baseline": [0] * 12}
    place = str(folder / "records100/00000")
    signal = before[0].astype(float)
    wfdb.wrsamp("00001_lr", p_signal=signal, write_dir=place, **options, **scale)
    np.testing.assert_array_equal(load_ptbxl_part(folder, folds=1).x, before)
    wfdb.wrsamp("00001_lr", p_signal=40 * signal, write_dir=place, **options, **scale)
    with pytest.raises(ValueError, match="00001_lr: has samples that are missing or beyond 32.767"):
        load_ptbxl_part(folder, folds=1)


def test_a_cache_folder_that_cannot_be_written_costs_time_only(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("ECG_KERAS_CACHE", str(folder / "file"))
    assert len(load_ptbxl_part(folder, folds=1)) == 3


def test_samples_marked_as_missing_and_strange_gains_are_refused(folder):
    path = folder / "records100/00000/00001_lr"
    x = np.zeros((1000, 12), int)
    _write_record(path, x, 100, gain="1000/furlong")
    with pytest.raises(ValueError, match="gain must read like .* got '1000/furlong'"):
        load_ptbxl_part(folder, folds=1)
    x[5, 3] = -32768
    _write_record(path, x, 100)
    with pytest.raises(ValueError, match="00001_lr.dat: has samples marked as missing"):
        load_ptbxl_part(folder, folds=1)


def test_a_part_without_records_of_the_task_is_refused(folder):
    path = folder / "scp_statements.csv"
    path.write_text("\n".join(line for line in _STATEMENTS.splitlines() if "AFIB" not in line))
    _edit(folder, "{'NORM': 100.0, 'SR': 0.0}", "{'NORM': 100.0}")
    _edit(folder, "{'IMI': 0.0, 'NDT': 35.0, 'SR': 0.0}", "{'IMI': 0.0}")
    with pytest.raises(ValueError, match="folds 1: none of 3 records has a class of the task"):
        load_ptbxl_part(folder, folds=1, task="rhythm")
    path.write_text(_STATEMENTS.replace("HYP,LVH", "OTHER,LVH"))
    with pytest.raises(ValueError, match="the classes OTHER are not of NORM, MI"):
        load_ptbxl_part(folder, folds=1)


def test_real_records_follow_the_benchmark_rule():
    train, val, test = load_ptbxl(real_data("ptbxl"), folds="1-7/8/9", progress=False)
    assert (len(train), len(val), len(test)) == (1979, 309, 322)
    assert test.class_counts() == {"NORM": 156, "MI": 68, "STTC": 76, "CD": 75, "HYP": 36}
    assert 0.1 < train.x.std() < 0.5  # mV


def test_both_official_rates_tell_the_same_story():
    slow, fast = (
        load_ptbxl_part(
            real_data("ptbxl_official_sample"), folds="1-10", sampling_rate=rate, progress=False
        )
        for rate in (100, 500)
    )
    assert slow.x.shape[1:] == (1000, 12) and fast.x.shape[1:] == (5000, 12)
    a, b = slow.x[:, 100:900].ravel(), fast.x[:, 500:4500:5].ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.95
