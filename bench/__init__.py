"""Sweeps of video systems: suites become cells, cells become records. `python -m bench --help`."""
