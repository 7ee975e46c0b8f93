"""TabularFlow by the utilities of scikit-learn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as checks
from sklearn.utils.validation import check_is_fitted

from beeline import TabularFlow
from beeline.core.errors import BeelineError


def quick(**settings: Any) -> TabularFlow:
    return TabularFlow(steps=2, batch=16, width=8, depth=1, half=False, evaluations=2, **settings)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=80), "kind": rng.choice(["ant", "bee"], 80)})
    frame.loc[::7, "size"] = np.nan
    return frame


@pytest.fixture(scope="module")
def fitted(frame: pd.DataFrame) -> TabularFlow:
    return quick().fit(frame)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_estimator_repr,
        checks.check_estimators_overwrite_params,
        checks.check_dict_unchanged,
        checks.check_dont_overwrite_parameters,
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_mixin_order,
        checks.check_valid_tag_types,
        checks.check_estimators_fit_returns_self,
        checks.check_fit_check_is_fitted,
        checks.check_get_feature_names_out_error,
        checks.check_requires_y_none,
        checks.check_n_features_in,
        checks.check_estimator_cloneable,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_of_sklearn(check: Any) -> None:
    check("TabularFlow", quick())


def test_an_unfitted_estimator_is_told_as_sklearn_tells(fitted: TabularFlow, frame: pd.DataFrame) -> None:
    check_is_fitted(fitted)
    for use in (
        lambda f: f.transform(frame),
        lambda f: f.sample(2),
        lambda f: f.get_feature_names_out(),
        check_is_fitted,
    ):
        with pytest.raises(NotFittedError):
            use(clone(fitted))
    with pytest.raises(BeelineError, match="call fit"):
        quick().score(frame)


def test_containers_and_names_of_transform(fitted: TabularFlow, frame: pd.DataFrame) -> None:
    assert fitted.n_features_in_ == 2 and list(fitted.feature_names_in_) == ["size", "kind"]
    assert list(fitted.get_feature_names_out()) == ["size", "kind"]
    assert list(fitted.get_feature_names_out(["size", "kind"])) == ["size", "kind"]
    with pytest.raises(BeelineError, match="fitted to the columns"):
        fitted.get_feature_names_out(["a"])
    rows = fitted.transform(frame)
    assert isinstance(rows, pd.DataFrame) and not rows.isna().any().any()
    known = frame["size"].notna()
    assert rows["size"][known].equals(frame["size"][known])  # only empty cells are filled
    assert rows.equals(fitted.transform(frame))  # a transformer of a pipeline is a function
    piped = make_pipeline(quick(), FunctionTransformer()).set_output(transform="pandas").fit(frame)
    assert list(piped.transform(frame).columns) == ["size", "kind"]


def test_set_output_chooses_the_container(fitted: TabularFlow, frame: pd.DataFrame) -> None:
    polars = pytest.importorskip("polars")
    other = clone(fitted).set_output(transform="polars")
    other.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    assert isinstance(other.transform(frame), polars.DataFrame)


def test_score_is_the_mean_log_density(fitted: TabularFlow, frame: pd.DataFrame) -> None:
    some = frame.head(6)
    assert fitted.score(some) == pytest.approx(float(np.mean(fitted.log_prob(some))))
    np.testing.assert_array_equal(fitted.score_samples(some), fitted.log_prob(some))


def test_fit_returns_the_estimator_and_clones_carry_no_flow(fitted: TabularFlow, frame: pd.DataFrame) -> None:
    other = clone(fitted)
    assert other.get_params() == fitted.get_params() and "flow_" not in vars(other)
    assert other.set_params(steps=3) is other and other.fit(frame) is other
