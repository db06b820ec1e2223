"""Fixtures that every test may ask for come from the kit.

A machine that is busy must not fail a test: no example has a deadline, and none counts as drawn too slowly.
"""

import signal
from importlib.util import find_spec

from hypothesis import HealthCheck, settings

pytest_plugins = [
    name
    for name in (
        "tests.kit.order",
        "tests.kit.s3",
        "tests.kit.postgres",
        "tests.kit.models3.fixtures",
        "tests.kit.evidence",
        "tests.kit.evidencescene",
        "tests.kit.stepclock",
    )
    if find_spec(name) is not None
]

settings.register_profile(
    "busy", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As of a job that a shell started in the background: its children would not hear Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)
