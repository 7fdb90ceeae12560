"""Python runs this at its start where this folder is on PYTHONPATH: tests/tiny.py puts it there for every command."""

from watching import install

install(dies=True)
