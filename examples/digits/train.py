"""Trains a small neural network on scikit-learn's handwritten digits, and reports its accuracy after each epoch.

In a trial's pod the parameters come from the Study. `python train.py` anywhere else is a local run with default
parameters; `study-trial run train.py:objective --param lr=0.05` gives some of them.
"""

import numpy as np
from scipy.ndimage import shift
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import study_trial

EPOCHS = 27


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """1,797 images of 8x8 pixels: a third is for validation, the others are there shifted by one pixel as well."""
    images, labels = load_digits(return_X_y=True)
    images, validation_images, labels, validation_labels = train_test_split(
        images / 16, labels, test_size=1 / 3, random_state=0, stratify=labels
    )
    square = images.reshape(-1, 8, 8)
    moves = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    shifted = [shift(square, (0, *move), order=0).reshape(-1, 64) for move in moves]
    return np.concatenate([images, *shifted]), np.tile(labels, 5), validation_images, validation_labels


def objective(trial: study_trial.Trial) -> float:
    # Optuna's suggest calls give the values that the study has chosen for this trial.
    model = MLPClassifier(
        hidden_layer_sizes=trial.suggest_int("hidden", 16, 128, log=True),
        batch_size=trial.suggest_categorical("batch_size", [32, 64, 128]),
        learning_rate_init=trial.suggest_float("lr", 1e-3, 1.0, log=True),
        momentum=trial.suggest_float("momentum", 0.0, 0.95),
        solver="sgd",
        random_state=0,
    )
    images, labels, validation_images, validation_labels = load()
    accuracy = 0.0
    for epoch in range(1, EPOCHS + 1):
        model.partial_fit(images, labels, classes=np.arange(10))
        accuracy = model.score(validation_images, validation_labels)
        print(f"epoch {epoch}: accuracy {accuracy:.4f}", flush=True)
        trial.report(accuracy, epoch)  # 1. how good it is so far
        if trial.should_prune():  # 2. whether to go on
            raise study_trial.TrialPruned
    return accuracy


if __name__ == "__main__":
    study_trial.run(objective)  # 3. the parameters go in, the final accuracy comes out
