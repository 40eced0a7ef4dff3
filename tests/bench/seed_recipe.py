"""The notebook recipe for the Kaggle 'heartbeat' files, as notebooks write it, to measure against.

Standardise, SMOTE, one `scipy.signal.spectrogram` call per beat, all images in memory, a 2D CNN of
four convolution blocks, AdamW, 10 epochs of plain `fit`. It does not use ecg_keras, and is slow and
heavy on purpose.

    python tests/bench/seed_recipe.py DIR [--epochs 10 --seed 0 --out FILE]
"""

import argparse
import json
import pathlib
import resource
import time

import numpy as np
import pandas as pd

CLASSES = ["N", "S", "V", "F", "Q"]


def spectrogram_images(signals):
    """Beats (n, 187) to images (n, 33, 4, 1) in [0, 1], one SciPy call per beat."""
    from scipy import signal

    images = []
    for beat in signals:
        _, _, power = signal.spectrogram(beat, fs=125, nperseg=64, noverlap=32)
        image = 10 * np.log10(power + 1e-10)
        image = (image - image.min()) / (image.max() - image.min() + 1e-10)
        images.append(image)
    return np.array(images)[..., np.newaxis]


def build_cnn(shape, n_classes):
    """Four blocks of convolution, normalisation, pooling and dropout, then dense layers."""
    from keras import Sequential, layers

    model = Sequential([layers.Input(shape)])
    for filters in (32, 64, 128, 256):
        model.add(layers.Conv2D(filters, (3, 3), activation="relu", padding="same"))
        model.add(layers.BatchNormalization())
        model.add(
            layers.MaxPooling2D((2, 2), padding="same")
        )  # 33 x 4 images: "valid" would leave nothing
        model.add(layers.Dropout(0.25))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(n_classes, activation="softmax"))
    return model


def run(directory, *, epochs=10, seed=0):
    """Run the recipe on mitbih_train.csv and mitbih_test.csv; returns its figures as a dict."""
    start = time.perf_counter()
    import keras
    from imblearn.over_sampling import SMOTE
    from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    keras.utils.set_random_seed(seed)
    train = pd.read_csv(pathlib.Path(directory) / "mitbih_train.csv", header=None)
    test = pd.read_csv(pathlib.Path(directory) / "mitbih_test.csv", header=None)
    x, y = train.iloc[:, :-1].values, train.iloc[:, -1].values.astype(int)
    x_test, y_test = test.iloc[:, :-1].values, test.iloc[:, -1].values.astype(int)
    x_train, x_val, y_train, y_val = train_test_split(
        x, y, test_size=0.1, stratify=y, random_state=seed
    )

    scaler = StandardScaler()
    x_train = scaler.fit_transform(x_train)
    x_val, x_test = scaler.transform(x_val), scaler.transform(x_test)
    x_train, y_train = SMOTE(
        random_state=seed, k_neighbors=min(5, np.bincount(y_train).min() - 1)
    ).fit_resample(x_train, y_train)
    images, images_val, images_test = (
        spectrogram_images(part) for part in (x_train, x_val, x_test)
    )
    seconds_before_fit = time.perf_counter() - start

    model = build_cnn(images.shape[1:], len(CLASSES))
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        images,
        y_train,
        validation_data=(images_val, y_val),
        epochs=epochs,
        batch_size=128,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss", factor=0.5, patience=3, min_lr=1e-6
            ),
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=5, restore_best_weights=True
            ),
        ],
        verbose=2,
    )
    predicted = model.predict(images_test, verbose=0).argmax(axis=1)
    print(
        classification_report(
            y_test, predicted, labels=range(5), target_names=CLASSES, zero_division=0
        )
    )
    return {
        "accuracy": accuracy_score(y_test, predicted),
        "macro_f1": f1_score(y_test, predicted, average="macro", labels=range(5), zero_division=0),
        "majority_accuracy": float(np.mean(y_test == np.bincount(y).argmax())),
        "confusion": confusion_matrix(y_test, predicted, labels=range(5)).tolist(),
        "seconds": time.perf_counter() - start,
        "seconds_before_fit": seconds_before_fit,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "n_train_images": len(images),
        "image_shape": list(images.shape[1:]),
        "n_parameters": model.count_params(),
        "epochs_run": len(history.history["loss"]),
        "seed": seed,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of mitbih_train.csv and mitbih_test.csv")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    result = run(options.data, epochs=options.epochs, seed=options.seed)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
