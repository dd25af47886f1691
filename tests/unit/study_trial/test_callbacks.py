"""Pruning callbacks of optuna-integration, in real little trainings with a trial that the operator prunes.

LightGBM and XGBoost are test dependencies. The other libraries are too large for that; each is tested where it is
installed. For example `pip install keras jax` into an environment of the tests, then run this file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator

import numpy
import optuna
import pytest
from remembering import RememberingChannel

import study_trial
from study_trial._search_space import StudySpace
from study_trial._study import Study
from study_trial._trial import Trial

PRUNED_AFTER = 3
ROUNDS = 10
RNG = numpy.random.default_rng(1)
X = RNG.normal(size=(200, 4)).astype("float32")
Y = (X[:, 0] + 0.3 * RNG.normal(size=200) > 0).astype("float32")

os.environ.setdefault("KERAS_BACKEND", "jax")

Training = Callable[[Trial], object]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trial_of(channel: RememberingChannel, *directions: str) -> Trial:
    return Trial(7, StudySpace({}, []), channel, ["metric"], [], Study("team/study", ["metric"], directions))


def is_pruned(training: Training, *directions: str) -> None:
    """Runs a training whose trial is pruned at its third report, and another that is left to end."""
    channel = RememberingChannel(PRUNED_AFTER)
    with pytest.raises(optuna.TrialPruned):
        training(trial_of(channel, *directions))
    first = channel.steps[0]
    assert channel.steps == list(range(first, first + PRUNED_AFTER))
    channel = RememberingChannel()
    training(trial_of(channel, *directions))
    assert channel.steps == list(range(first, first + ROUNDS))
    assert all(numpy.isfinite(value) for _, _, value in channel.calls)


def lightgbm_training(metric: str, cv: bool = False) -> Training:
    lightgbm = pytest.importorskip("lightgbm")
    from optuna_integration import LightGBMPruningCallback

    def training(trial: Trial) -> object:
        data = lightgbm.Dataset(X, Y)
        params = {"objective": "binary", "metric": metric, "verbosity": -1, "num_threads": 1}
        callbacks = [LightGBMPruningCallback(trial, metric, valid_name="valid_0")]
        if cv:
            return lightgbm.cv(params, data, ROUNDS, nfold=2, callbacks=callbacks)
        valid = lightgbm.Dataset(X[:50], Y[:50], reference=data)
        return lightgbm.train(params, data, ROUNDS, valid_sets=[valid], callbacks=callbacks)

    return training


@pytest.mark.parametrize("cv", [False, True])
def test_lightgbm(cv):
    is_pruned(lightgbm_training("auc", cv), "maximize")
    is_pruned(lightgbm_training("binary_logloss", cv), "minimize")


def test_lightgbm_finds_a_metric_of_the_other_direction():
    for metric, direction in (("auc", "minimize"), ("binary_logloss", "maximize")):
        with pytest.raises(ValueError, match="inconsistent with the objective values in terms of study directions"):
            lightgbm_training(metric)(trial_of(RememberingChannel(), direction))


def test_lightgbm_in_a_pod_of_an_older_operator_says_what_to_do():
    with pytest.raises(study_trial.SetupError, match="STUDY_DIRECTIONS is not set"):
        lightgbm_training("auc")(trial_of(RememberingChannel()))


def xgboost_training(cv: bool = False) -> Training:
    xgboost = pytest.importorskip("xgboost")
    from optuna_integration import XGBoostPruningCallback

    def training(trial: Trial) -> object:
        data = xgboost.DMatrix(X, Y)
        params = {"objective": "binary:logistic", "eval_metric": "auc", "nthread": 1}
        callbacks = [XGBoostPruningCallback(trial, "test-auc" if cv else "validation-auc")]
        if cv:
            return xgboost.cv(params, data, ROUNDS, nfold=2, callbacks=callbacks)
        valid = xgboost.DMatrix(X[:50], Y[:50])
        evals = [(valid, "validation")]
        return xgboost.train(params, data, ROUNDS, evals=evals, callbacks=callbacks, verbose_eval=False)

    return training


@pytest.mark.parametrize("cv", [False, True])
def test_xgboost(cv):
    is_pruned(xgboost_training(cv), "maximize")
    is_pruned(xgboost_training(cv))  # it does not ask for the direction


def test_keras():
    keras = pytest.importorskip("keras")
    from optuna_integration import KerasPruningCallback

    def training(trial: Trial) -> object:
        model = keras.Sequential([keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
        callbacks = [KerasPruningCallback(trial, "val_loss")]
        return model.fit(X, Y, epochs=ROUNDS, validation_split=0.2, verbose=0, callbacks=callbacks)

    is_pruned(training)


@pytest.fixture
def lightning_training(tmp_path) -> Callable[..., Training]:
    lightning = pytest.importorskip("lightning.pytorch")
    torch = pytest.importorskip("torch")
    from optuna_integration import PyTorchLightningPruningCallback

    class Model(lightning.LightningModule):
        """A linear model."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, index):
            return ((self.layer(batch[0])[:, 0] - batch[1]) ** 2).mean()

        def validation_step(self, batch, index):
            self.log("val_loss", self.training_step(batch, index))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def make(**trainer: object) -> Training:
        data = torch.utils.data.TensorDataset(torch.tensor(X.tolist()), torch.tensor(Y.tolist()))

        def training(trial: Trial) -> object:
            callback = PyTorchLightningPruningCallback(trial, monitor="val_loss")
            loader = torch.utils.data.DataLoader(data, batch_size=50)
            quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            more = {"accelerator": "cpu", "max_epochs": ROUNDS, "default_root_dir": tmp_path, **quiet, **trainer}
            return lightning.Trainer(callbacks=[callback], **more).fit(Model(), loader, loader)

        return training

    return make


def test_lightning(lightning_training):
    is_pruned(lightning_training(devices=1))


def test_lightning_under_ddp_says_what_to_do(lightning_training):
    channel = RememberingChannel()
    training = lightning_training(devices=2, strategy="ddp_fork")
    with pytest.raises(Exception, match="RDBStorage, as Lightning's under DDP does, does not work here") as caught:
        training(trial_of(channel))
    assert "rank 0" in str(caught.value)
    assert channel.calls == []


def test_skorch():
    pytest.importorskip("skorch")
    torch = pytest.importorskip("torch")
    import skorch
    from optuna_integration import SkorchPruningCallback

    def training(trial: Trial) -> object:
        callbacks = [SkorchPruningCallback(trial, "valid_loss")]
        net = skorch.NeuralNetRegressor(
            torch.nn.Linear,
            module__in_features=4,
            module__out_features=1,
            max_epochs=ROUNDS,
            callbacks=callbacks,
            verbose=0,
        )
        return net.fit(torch.tensor(X.tolist()), torch.tensor(Y.tolist())[:, None])

    is_pruned(training)


def test_ignite():
    ignite = pytest.importorskip("ignite.engine")
    from optuna_integration import PyTorchIgnitePruningHandler

    def training(trial: Trial) -> object:
        trainer = ignite.Engine(lambda engine, batch: None)
        evaluator = ignite.Engine(lambda engine, batch: None)

        @trainer.on(ignite.Events.EPOCH_COMPLETED)
        def evaluate(engine):
            evaluator.run([0])

        @evaluator.on(ignite.Events.EPOCH_COMPLETED)
        def measure(engine):
            engine.state.metrics["accuracy"] = 0.5

        handler = PyTorchIgnitePruningHandler(trial, "accuracy", trainer)
        evaluator.add_event_handler(ignite.Events.COMPLETED, handler)
        return trainer.run([0], max_epochs=ROUNDS)

    is_pruned(training)


def test_torch_distributed_wants_an_optuna_trial():
    """It checks the class, so docs/training-script.md has a line that registers `study_trial.Trial`."""
    assert not isinstance(trial_of(RememberingChannel()), optuna.trial.BaseTrial)


def test_catboost():
    catboost = pytest.importorskip("catboost")
    from optuna_integration import CatBoostPruningCallback

    def training(trial: Trial) -> object:
        callback = CatBoostPruningCallback(trial, "AUC")
        model = catboost.CatBoostClassifier(
            iterations=ROUNDS, eval_metric="AUC", thread_count=1, verbose=False, allow_writing_files=False
        )
        model.fit(X, Y, eval_set=[(X[:50], Y[:50])], callbacks=[callback])
        callback.check_pruned()
        return model

    is_pruned(training)
