"""The model behind a test's evidence bucket."""

from __future__ import annotations

from tests.kit.evidence import Evidence
from tests.kit.models3.app import App
from tests.kit.models3.fixtures import TestedModel


def model_of(evidence: Evidence) -> TestedModel:
    assert evidence.model is not None
    return evidence.model


def app_of(evidence: Evidence) -> App:
    return App(model_of(evidence), evidence.location.bucket)
