"""Fixtures that every test may ask for come from the kit."""

from importlib.util import find_spec

pytest_plugins = [
    name for name in ("tests.kit.order", "tests.kit.s3", "tests.kit.postgres") if find_spec(name) is not None
]
