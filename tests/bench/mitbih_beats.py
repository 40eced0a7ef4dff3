"""Train and measure the beat model that ships: N, S and V of recordings of any one or two leads.

    python tests/bench/mitbih_beats.py MITDB SVDB --models DIR       # cross-validation
    python tests/bench/mitbih_beats.py MITDB SVDB --models DIR --ship

MITDB and SVDB are folders of the MIT-BIH Arrhythmia and Supraventricular Arrhythmia Databases. Of
the first the records of DS1 are used, of the second all that are there. Every record is annotated
once, from its signal alone, by a model that has seen no beat of its patient (5 folds of whole
patients), and compared with the reference by the rules of ANSI/AAMI EC57. The fold models stay in
DIR, so that a second call only counts; --ship trains on all patients and writes
ecg_keras/pretrained_mitbih_beats.keras. Results: outputs/mitbih_beats/.

What was chosen by looking at figures (see outputs/mitbih_beats/negative.csv) was chosen on the
patients marked "chosen" in records.csv, one half; the figures of the other half are the honest
ones.
"""

import argparse
import os
import pathlib
import shutil
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd

from ecg_keras import beats
from ecg_keras.annotate import annotate
from ecg_keras.ec57 import ec57
from ecg_keras.mitbih_records import DS1, load_wfdb_beats
from ecg_keras.models import build_model
from ecg_keras.recordings import list_records
from ecg_keras.report import peak_rss_mb, versions
from ecg_keras.saved_models import load_model, save_served, write_pretrained
from ecg_keras.storage import write_json

OUT = pathlib.Path("outputs/mitbih_beats")
N_FOLDS = 5
PREPARED = {
    "lead": "each",
    "features": "context",
    "classes": "aami3",
    "beats": "detected",
    "window_s": (0.4, 0.6),
}
NETWORK = {"filters": (), "units": 96, "joint_units": 48, "members": 3, "dropout": 0.3}
MOST_NORMAL = 300  # N rows of a record and lead that are trained on
POWER = 0.6  # the beats of a class of a record together weigh (their number) ** POWER
MADE_WEIGHT = (1.0, 0.3)  # of a made row of N and of S, beside rows whose mean weight is 1
BIAS = (0.0, 0.0, 0.0)  # added to the logits of N, S and V: balances Se and +P
EPOCHS, BATCH, RATE, SMOOTHING = 8, 1024, 3e-3, 0.05


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mitdb", type=pathlib.Path)
    parser.add_argument("svdb", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--ship", action="store_true", help="train on all patients too")
    parser.add_argument(
        "--count", action="store_true", help="the fold models are there: only count"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.models.mkdir(parents=True, exist_ok=True)
    sources = [(options.mitdb, list(DS1)), (options.svdb, list_records(options.svdb))]
    if not options.count:
        started = time.perf_counter()
        rows = load_wfdb_beats(sources, **PREPARED)
        print(rows.summary(), f"{time.perf_counter() - started:.0f} s", flush=True)
        folds = deal(rows, options.seed)
        folds.to_csv(options.models / "folds.csv")
        for fold in range(N_FOLDS):
            mine = folds.index[folds.fold != fold]
            part = rows[np.isin(rows.records, mine)]
            shutil.rmtree(options.models / "found", ignore_errors=True)
            train(part, options.models / f"fold{fold}.keras", seed=options.seed + fold)
        if options.ship:
            train(rows, options.models / "all.keras", seed=options.seed)
    folds = pd.read_csv(options.models / "folds.csv", index_col="record")
    count(options, folds, sources)
    if options.ship:
        ship(options.models / "all.keras", sources)


def deal(rows, seed):
    """Fold and half of each record: those with most S and V beats are dealt first, by database."""
    table = pd.DataFrame({"record": rows.records, "y": rows.y})
    counts = table.groupby(["record", "y"]).size().unstack(fill_value=0)
    folds = pd.DataFrame(index=counts.index, data={"fold": 0, "half": "counted"})
    rng = np.random.default_rng(seed)
    for database in sorted({name.split("/")[0] for name in folds.index}):
        names = [name for name in folds.index if name.startswith(database + "/")]
        ranked = sorted(names, key=lambda name: -(3 * counts.loc[name, 1] + counts.loc[name, 2]))
        for first in range(0, len(ranked), N_FOLDS):
            block = ranked[first : first + N_FOLDS]
            folds.loc[block, "fold"] = rng.permutation(N_FOLDS)[: len(block)]
        for first in range(0, len(ranked), 2):
            pair = ranked[first : first + 2]
            folds.loc[pair[rng.integers(len(pair))], "half"] = "chosen"
    return folds


def train(rows, path, *, seed):
    """Train the network on rows and save it with its card; returns the saved model."""
    started = time.perf_counter()
    keras.utils.set_random_seed(seed)
    kept, weights = thinned(rows, seed)
    x, metadata, y = rows.x[kept], rows.metadata[kept], rows.y[kept]
    of_record = rows[kept]
    made = made_rows(rows, seed)
    weights = np.concatenate([weights / weights.mean(), np.take(MADE_WEIGHT, made[2])])
    x, metadata, y = (np.concatenate(pair) for pair in zip((x, metadata, y), made))
    network = build_model("rhythm", like=of_record, **NETWORK)
    steps = EPOCHS * (len(y) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps * 0.9, warmup_target=RATE, warmup_steps=steps * 0.1
    )
    network.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01),
        keras.losses.CategoricalCrossentropy(label_smoothing=SMOOTHING),
    )
    rng, targets = np.random.default_rng(seed), np.eye(3, dtype=np.float32)[y]
    for epoch in range(EPOCHS):
        order = rng.permutation(len(y))[: len(y) // BATCH * BATCH]
        sign = rng.choice(np.float32([-1, 1]), (len(order), 1, 1))  # leads may be upside down
        history = network.fit(
            {"signal": x[order] * sign, "metadata": metadata[order]},
            targets[order],
            sample_weight=weights[order].astype(np.float32),
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
        )
        loss = history.history["loss"][0]
        print(f"{path.name} epoch {epoch} loss {loss:.4f} {time.perf_counter() - started:.0f} s")
    for member in range(NETWORK["members"]):
        layer = network.get_layer(f"member_{member}")
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, bias + np.array(BIAS, np.float32)])
    save_served(path, network, of_record)
    return load_model(path)


def thinned(rows, seed):
    """Rows to train on and the weight of each: `MOST_NORMAL`, `POWER`."""
    rng, kept, weights = np.random.default_rng(seed), [], []
    for record in np.unique(rows.records):
        for label in range(len(rows.classes)):
            mine = np.flatnonzero((rows.records == record) & (rows.y == label))
            some = rng.permutation(mine)[: 2 * MOST_NORMAL] if label == 0 else mine
            kept.append(some)
            weights.append(np.full(len(some), len(mine) ** POWER / max(len(some), 1)))
    return np.concatenate(kept), np.concatenate(weights)


def made_rows(rows, seed):
    """Normal beats in rhythms that are rare in the records; x, metadata and labels.

    A tachycardia that starts at once, is regular and lasts up to 1,500 beats is S by definition,
    however usual it becomes; in fibrillation no beat is S, however early. Beats are those of the
    record, what is told by time alone is computed from the made R peaks.
    """
    rng, names = np.random.default_rng([seed, 1]), list(rows.metadata_names)
    parts = []
    for record in np.unique(rows.records):
        mine = np.flatnonzero(rows.records == record)
        mine = mine[: len(mine) // 2]  # one lead tells the times
        t = np.cumsum(np.exp(rows.metadata[mine, names.index("rr_prev")].astype(float)))
        normal = np.flatnonzero((rows.records == record) & (rows.y == 0))
        for label, times, chosen in _rhythms(t, rng):
            columns = beats.context_rhythm(times)
            own = rng.choice(normal, 2 * len(chosen))
            metadata = rows.metadata[own].copy()
            for i, name in enumerate(names):
                of = "early" if name.endswith(":early") else "earliness"
                if name in columns:
                    metadata[:, i] = np.tile(columns[name][chosen], 2)
                elif name.startswith("alike") and name.endswith((":early", ":earliness")):
                    total = np.append(0, np.cumsum(columns[of]))
                    first = np.maximum(chosen - 400, 0)
                    metadata[:, i] = np.tile((total[chosen] - total[first]) / (chosen - first), 2)
            parts.append((rows.x[own], metadata, np.full(len(own), label)))
    return [np.concatenate(part) for part in zip(*parts)]


def _rhythms(t, rng):
    """Made times of R peaks from those of a record: label, times, and the beats to take."""
    for _ in range(2):
        start = rng.integers(150, len(t) - 50)
        usual = np.median(np.diff(t[max(0, start - 80) : start]))
        rr, n = usual * rng.uniform(0.45, 0.72), int(np.exp(rng.uniform(*np.log([15, 1500]))))
        drift = np.clip(0.5 * np.cumsum(rng.normal(0, 0.001, n)), -0.06, 0.06)
        run = rr * np.exp(drift + rng.normal(0, rng.uniform(0.004, 0.02), n))
        if 0.28 <= rr <= 0.62:
            times = np.concatenate([t[:start], t[start - 1] + np.cumsum(run)])
            yield 1, times, start + rng.choice(np.arange(3, n - 1), min(30, n - 4), replace=False)
    n, slow = int(rng.integers(300, 900)), rng.normal(0, 1, 940)
    slow = np.convolve(slow, np.ones(41) / 41**0.5, "valid")[:n]
    middle = np.log(rng.uniform(0.45, 1.0))
    log = middle + rng.uniform(0.15, 0.32) * rng.normal(0, 1, n) + 0.06 * slow
    rr = np.maximum(np.clip(np.exp(log), 0.26, 2.2), 0.3 * np.exp(middle) + 0.1)
    start = rng.integers(0, 2) * rng.integers(1, len(t) - 100)
    times = np.concatenate([t[:start], (t[start - 1] if start else 0) + np.cumsum(rr)])
    yield 0, times, start + rng.choice(np.arange(40, n - 1), 60, replace=False)


def count(options, folds, sources):
    """Annotate every record by the model that has not seen it, and compare as EC57 asks."""
    models = {fold: load_model(options.models / f"fold{fold}.keras") for fold in range(N_FOLDS)}
    found = {}
    for directory, names in sources:
        for name in names:
            key = f"{directory.name}/{name}"
            folder = options.models / "found" / directory.name
            folder.mkdir(parents=True, exist_ok=True)
            kept = folder / f"{name}.csv"
            if not kept.exists():
                annotation = annotate(models[folds.fold[key]], directory / name)
                annotation.beats.assign(fs=annotation.fs).to_csv(kept, index=False)
            table = pd.read_csv(kept, keep_default_na=False, usecols=["sample", "class", "fs"])
            symbols = table["class"].replace("?", "Q").to_numpy()
            found[key] = (table["sample"].to_numpy(), symbols, float(table.fs[0]))
    tables = []
    for escape_beats in ("S", "N"):
        one = ec57(
            {f"{d.name}/{name}": d / f"{name}.atr" for d, names in sources for name in names},
            found,
            escape_beats=escape_beats,
        )
        table = one.beats.assign(escape_beats=escape_beats)
        tables.append(table.merge(folds, left_on="record", right_index=True))
    table = pd.concat(tables)
    figures = summary(table, options.seed)
    print(figures.round(2).to_string(index=False))
    OUT.mkdir(parents=True, exist_ok=True)
    table.round(5).to_csv(OUT / "records.csv", index=False)
    figures.round(3).to_csv(OUT / "figures.csv", index=False)
    setting = {"network": NETWORK, "preparation": PREPARED, "epochs": EPOCHS, "bias": BIAS}
    write_json(
        OUT / "report.json",
        {**setting, "seed": options.seed, "versions": versions(), "peak_mb": peak_rss_mb()},
    )


def ship(path, sources):
    """Write the model of all patients into the package, with its card."""
    figures = pd.read_csv(OUT / "figures.csv")
    figures = figures[figures["e,j as"] == "S"]
    lines, told = [], {}
    for _, row in figures.iterrows():
        for kind in ("veb", "sveb"):
            for share in ("se", "pp"):
                name = f"{kind}_{share}"
                lines.append(
                    {
                        "name": name,
                        "value": round(row[name] / 100, 4),
                        "interval": [
                            round(row[f"{name}_{end}"] / 100, 4) for end in ("low", "high")
                        ],
                        "on": f"{row.database}, {row.patients} patients of {row.records} records",
                    }
                )
        told[row.database, row.patients] = row
    both = told["both", "all"]
    about = {
        "reads": "every beat of a recording with any one lead or more",
        "trained_on": "MIT-BIH DS1 and SVDB, 74 patients",
        "purpose": "N, S and V of single beats from seconds before and after and minutes before.",
        "data": "MIT-BIH Arrhythmia Database, the 22 records of DS1, and 52 records of the MIT-BIH "
        "Supraventricular Arrhythmia Database; R peaks as detected; F and Q left out. Made rows of "
        "tachycardia (S) and fibrillation (N) were added.",
        "licence": "ODC-BY 1.0 (data), Apache-2.0 (model)",
        "citation": "G. B. Moody, R. G. Mark, 'The impact of the MIT-BIH Arrhythmia Database', "
        "IEEE EMB 20(3), 2001; S. D. Greenwald, 'Improved detection and classification of "
        "arrhythmias in noise-corrupted electrocardiograms', MIT 1990; A. Goldberger et al., "
        "'PhysioBank, PhysioToolkit, and PhysioNet', Circulation 101(23), 2000",
        "protocol": "5 folds of whole patients, R peaks detected, ANSI/AAMI EC57 from minute 5 on, "
        "e and j as S, gross, intervals by bootstrap over records. Settings were chosen on one "
        "half of the patients ('chosen'); the other half ('counted') was counted once.",
        "figure": f"V {both.veb_se:.1f}/{both.veb_pp:.1f}, S {both.sveb_se:.1f}/{both.sveb_pp:.1f} "
        "% Se/+P, unseen patients",
        "figures": lines,
        "never_shown": "The 22 records of DS2, paced beats, fusion beats, flutter, children.",
        "not_for": "Diagnosis, monitoring or any decision about a person: it is no medical device. "
        "Paced rhythms. Junctional beats are not told from N or S.",
    }
    rows = load_wfdb_beats([(directory, names[:3]) for directory, names in sources], **PREPARED)
    print(write_pretrained(path, "mitbih_beats", about, check=rows))


def summary(table, seed, draws=1000):
    """Gross figures in %, by database and half, with intervals by bootstrap over records."""
    rng, lines = np.random.default_rng(seed), []
    database = table.record.str.split("/").str[0]
    groups = [("both", "all", table.record.notna())]
    groups += [("both", half, table.half == half) for half in ("chosen", "counted")]
    groups += [(name, "all", database == name) for name in database.unique()]
    groups += [
        (name, half, (database == name) & (table.half == half))
        for name in database.unique()
        for half in ("chosen", "counted")
    ]
    for name, half, mine in groups:
        for escape_beats, part in table[mine].groupby("escape_beats"):
            line = {
                "database": name,
                "patients": half,
                "records": len(part),
                "e,j as": escape_beats,
            }
            counts = {kind: _counts(part, kind) for kind in "QVS"}
            drawn = rng.integers(len(part), size=(draws, len(part)))
            for kind, count in counts.items():
                word = {"Q": "qrs", "V": "veb", "S": "sveb"}[kind]
                for share, other in (("se", 1), ("pp", 2)):
                    value = _percent(count[:, 0].sum(), count[:, other].sum())
                    sums = count[drawn].sum(axis=1)  # (draws, 3)
                    low, high = np.nanpercentile(_percent(sums[:, 0], sums[:, other]), [2.5, 97.5])
                    line |= {f"{word}_{share}": value, f"{word}_{share}_low": low}
                    line[f"{word}_{share}_high"] = high
                weight = count[:, 0] + count[:, 1]
                line[f"{word}_most_of_one"] = 100 * weight.max() / max(weight.sum(), 1)
            lines.append(line)
    return pd.DataFrame(lines)


def _percent(right, wrong):
    """Share of the right ones, in %."""
    return 100 * right / np.maximum(right + wrong, 1)


def _counts(part, kind):
    """True positives, misses and false positives of each record, by EC57's formulas, (n, 3)."""
    cell = lambda names: sum(part[name].to_numpy() for name in names.split() if name in part)
    if kind == "Q":
        right = cell(" ".join(a + b for a in "NSVFQ" for b in "nsvfq"))
        missed = cell("No So Vo Fo Qo Nx Sx Vx Fx Qx")
        return np.column_stack([right, missed, cell("On Os Ov Of Oq Xn Xs Xv Xf Xq")])
    if kind == "V":
        return np.column_stack([cell("Vv"), cell("Vn Vs Vf Vq Vo Vx"), cell("Nv Sv Ov Xv")])
    return np.column_stack([cell("Ss"), cell("Sn Sv Sf Sq So Sx"), cell("Ns Vs Fs Os Xs")])


if __name__ == "__main__":
    main()
