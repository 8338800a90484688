"""The regressor: scikit-learn's own checks, and what it says where there is little to learn or training fails."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from autodraft.training.layer_sparsity import LayerSparseRegressor

QUICK = LayerSparseRegressor((8, 8, 8), num_steps=150, penalty=0.02, random_state=0)


@parametrize_with_checks([QUICK])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    inputs = random.normal(5.0, 20.0, (200, 3))
    return inputs, 1000.0 + 300.0 * np.abs(inputs[:, 0] - inputs[:, 1])


@pytest.mark.filterwarnings("ignore:penalty=")
def test_merging_leaves_predictions_alone(data):
    regressor = clone(QUICK).set_params(penalty=0.5, refit=False).fit(*data)
    assert regressor.depth_ == 1 + regressor.active_layers_.sum() < 3
    deep = clone(regressor).fit(*data)
    deep.network_ = deep.deep_network_
    assert deep.network_.depth == 3
    np.testing.assert_allclose(regressor.predict(data[0]), deep.predict(data[0]), rtol=1e-9)


def test_a_kinked_function_is_fitted(data):
    assert clone(QUICK).set_params(num_steps=400).fit(*data).score(*data) > 0.95


def test_several_outputs_have_the_shape_of_the_targets(data):
    inputs, targets = data
    predicted = clone(QUICK).fit(inputs, np.column_stack([targets, -targets])).predict(inputs)
    assert predicted.shape == (200, 2)
    assert np.corrcoef(predicted[:, 0], predicted[:, 1])[0, 1] < -0.9


def test_a_penalty_that_leaves_no_layer_says_so_and_still_predicts(data):
    with pytest.warns(UserWarning, match="penalty=1e\\+06 has left no layer active"):
        regressor = clone(QUICK).set_params(penalty=1e6).fit(*data)
    assert regressor.depth_ == 1 and regressor.score(*data) > 0


def test_divergence_says_so_and_keeps_the_last_good_state(data):
    with pytest.warns(ConvergenceWarning, match="try a smaller learning_rate"):
        regressor = clone(QUICK).set_params(learning_rate=1e200).fit(*data)
    assert regressor.has_diverged_ and np.isfinite(regressor.predict(data[0])).all()


def test_equal_targets_are_predicted_and_said_to_be_equal(data):
    with pytest.warns(UserWarning, match="all targets are equal"):
        regressor = clone(QUICK).fit(data[0], np.full(200, 7.3))
    np.testing.assert_allclose(regressor.predict(data[0]), 7.3, rtol=1e-12)


def test_a_healthy_fit_is_silent(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone(QUICK).fit(*data)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"penalty": -1.0}, "penalty must be 0 or more"),
        ({"penalty": float("nan")}, "penalty must be 0 or more"),
        ({"hidden_layer_sizes": ()}, "hidden_layer_sizes must name"),
        ({"hidden_layer_sizes": (4, 0)}, "hidden_layer_sizes must name"),
        ({"num_steps": 0}, "num_steps must be 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"validation_fraction": 1.0}, "validation_fraction must be between 0 and 1"),
    ],
)
def test_parameters_out_of_range_are_refused(data, wrong, message):
    with pytest.raises(ValueError, match=message):
        clone(QUICK).set_params(**wrong).fit(*data)


def test_undefined_values_are_refused(data):
    inputs = data[0].copy()
    inputs[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        clone(QUICK).fit(inputs, data[1])


def test_it_works_in_a_grid_search_and_through_pickle(data):
    search = GridSearchCV(clone(QUICK).set_params(num_steps=40), {"penalty": [0.0, 0.01]}, cv=2).fit(*data)
    restored = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(restored.predict(data[0]), search.predict(data[0]))


def test_without_scikit_learn_the_rest_works_and_the_regressor_names_the_extra():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import autodraft.training.layer_sparsity as package\n"
        "package.random_networks\n"
        "try: package.LayerSparseRegressor\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'autodraft[sklearn]'" in run.stdout
