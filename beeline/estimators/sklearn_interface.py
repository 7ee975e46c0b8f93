"""What scikit-learn calls on an estimator of table rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from beeline.core.errors import BeelineError, require


class UnfittedError(BeelineError, NotFittedError):  # type: ignore[misc]
    """An estimator was used before it was fitted."""


class TableEstimator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator with ``impute`` and ``log_prob`` under the names of scikit-learn.

    ``set_output(transform="pandas")`` of TransformerMixin chooses the container of ``transform``.
    """

    feature_names_in_: Any  # names of the columns [n_features_in_], set by ``fit``
    n_features_in_: int

    def impute(self, X: Any) -> Any:
        raise NotImplementedError

    def log_prob(self, X: Any) -> np.ndarray[Any, Any]:
        raise NotImplementedError

    def transform(self, X: Any) -> Any:
        """``impute``, in the container of ``set_output``: by default a data frame with the columns of ``X``."""
        return self.impute(X)

    def score_samples(self, X: Any) -> np.ndarray[Any, Any]:
        """Log density [N] of every row in nats, as ``log_prob``."""
        return self.log_prob(X)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log density of the rows in nats; higher is better.  ``y`` is ignored."""
        return float(np.mean(self.score_samples(X)))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Names of the columns of ``transform``: those of the training data."""
        self.check_fitted()
        names = np.asarray(self.feature_names_in_, dtype=object)
        require(
            input_features is None or list(input_features) == list(names),
            f"input_features is {list(input_features) if input_features is not None else None}, but the estimator was "
            f"fitted to the columns {list(names)}; leave it out",
        )
        return names

    def check_fitted(self) -> None:
        """Refuse an estimator that is not fitted."""
        if not self.__sklearn_is_fitted__():
            raise UnfittedError(
                f"this {type(self).__name__} is not fitted, so it has no flow to use; call fit(frame), or "
                f"{type(self).__name__}.load(...)"
            )

    def __sklearn_is_fitted__(self) -> bool:
        return "flow_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.non_deterministic = False
        return tags
