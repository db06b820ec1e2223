"""Fixtures that every test may ask for come from the kit."""

import signal
from importlib.util import find_spec

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

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As of a job that a shell started in the background: its children would not hear Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)
