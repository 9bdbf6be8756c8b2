"""The same runs as for the tests of the Hub."""

from tests.hub.conftest import runs

__all__ = ["runs"]
