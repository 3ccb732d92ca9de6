"""Processes on this machine that end with the program that starts them, also if it is killed."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


_LIBC = ctypes.CDLL(None)  # loaded before there are threads: between fork and exec little is safe


def _die_with_parent():
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, of Linux


class Processes:
    """Starts Python programs in this directory, and kills those that are left at its end."""

    def __init__(self):
        self._started = []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self._started:
            process.kill()
            process.wait()

    def start(self, *arguments, **environment):
        """Start `python ...`; its standard output can be read."""
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=HERE,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent,
        )
        self._started.append(process)
        return process


def free_addresses(count):
    """Addresses on the loopback interface that nobody listens to."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses
