"""A small bundle, and a service of it."""

import pytest

from beeline.serving.service import Limits, Service
from tests.serving.test_service import made_bundle


@pytest.fixture(scope="module")
def bundle():
    return made_bundle()


@pytest.fixture(scope="module")
def service(bundle):
    made = Service({"small": bundle}, Limits(batch=16, samples=40))
    yield made
    made.close()
