"""Python programs in other processes, without the seconds that an import of TensorFlow takes in each of them.

A server imports TensorFlow once, and forks for every program. A program finds `tensorflow` in `sys.modules`, and all
else as in a new interpreter: tfpyop is not imported, and TensorFlow's runtime has not started. Tests of what is
imported first, or of options of the interpreter, start an interpreter instead.
"""

import atexit
import contextlib
import functools
import importlib
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
import warnings

_MOST_BYTES = 2**20
"""The largest request: program, arguments and environment."""


def run_python(*arguments, cwd=None, env=None, timeout=100, check=False):
    """Run Python with the arguments `-c`, `-m` or a script, as `subprocess.run` does; returns what it printed."""
    with contextlib.ExitStack() as stack:
        output, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        nothing = stack.enter_context(open(os.devnull, "rb"))
        process = ForkedPython(arguments, [nothing, output, errors], cwd=cwd, env=env)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    finished = subprocess.CompletedProcess(["python", *arguments], process.returncode, *texts)
    if check:
        assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def start_python(*arguments, stdin=None):
    """Start a new interpreter with these arguments, for programs that do not need TensorFlow."""
    return subprocess.run([sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=60)


class ForkedPython:
    """A process of the server.

    Args:
      arguments: The arguments of Python.
      files: Its standard input, output and errors.
      cwd: The directory. Default: the current one.
      env: The environment. Default: the current one.
    """

    def __init__(self, arguments, files, *, cwd=None, env=None):
        environment = dict(os.environ if env is None else env)
        request = list(map(str, arguments)), os.fspath(cwd or os.getcwd()), environment
        self.returncode = None
        self._status, theirs = socket.socketpair()
        with theirs:
            descriptors = [*(file.fileno() for file in files), theirs.fileno()]
            socket.send_fds(_server(), [pickle.dumps(request)], descriptors)
        self.pid = int(self._status.recv(32).split()[0])

    def wait(self, timeout=None):
        """Wait until the process ends; returns its status, which is negative if a signal ended it."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = int(self._status.recv(32))
            except TimeoutError:
                raise subprocess.TimeoutExpired("python", timeout) from None
        return self.returncode

    def poll(self):
        """Return the status if the process has ended, or None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(1e-3)
        return self.returncode

    def kill(self):
        """End the process and all that is left of what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        self._status.close()


class PipedPython(ForkedPython):
    """The same with pipes, in the place of a `subprocess.Popen` that has the arguments of Python."""

    def __init__(self, command, *, stdin, stdout, stderr, env):
        assert (command[0], stdin, stdout) == (sys.executable, subprocess.PIPE, subprocess.PIPE)
        (reading, self.stdin), (self.stdout, writing) = (
            [open(descriptor, mode) for descriptor, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]  # noqa: SIM115
            for _ in range(2)
        )
        with reading, writing:
            super().__init__(command[1:], [reading, writing, stderr], env=env)

    def communicate(self):
        """Close the pipes, and wait until the process ends."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()
        self.wait()


def fork_for_exports(monkeypatch):
    """Let `check_export` fork the process that loads its models."""
    from tfpyop.testing import _other_process  # which the server must not import

    popen = types.SimpleNamespace(Popen=PipedPython, PIPE=subprocess.PIPE)
    monkeypatch.setattr(_other_process, "subprocess", popen)


@functools.cache
def _server():
    """The connection to the server, which ends with this process."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_BYTES)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            pass_fds=[theirs.fileno()],
        )

    def end():
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


# -- in the server


def _serve(connection):
    """Fork for every request; returns the request in the process that is to run it, and None when all is done."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for those that watch
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, _MOST_BYTES, 4)
        if not data:
            return None
        if _fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
            _watch(descriptors)
            return pickle.loads(data)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(descriptors):
    """Fork once more, and report how the child ends; returns in the child alone."""
    *files, status = descriptors
    child = _fork()
    if child == 0:
        os.close(status)
        os.setsid()
        for number, descriptor in enumerate(files):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return
    for descriptor in files:
        os.close(descriptor)
    with socket.socket(fileno=status) as connection, contextlib.suppress(BrokenPipeError):
        connection.sendall(b"%d\n" % child)
        _, code = os.waitpid(child, 0)
        connection.sendall(b"%d" % os.waitstatus_to_exitcode(code))
    os._exit(0)


def _fork():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorFlow has threads, which wait for work
        return os.fork()


def _execute(arguments, directory, environment, path):
    """Run a program as Python does."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    importlib.invalidate_caches()
    own, *others = arguments
    first = {"-c": "", "-m": directory}.get(own, os.path.dirname(os.path.abspath(own)))
    sys.path[:] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *path]
    sys.argv[:] = [own, *others] if own not in ("-c", "-m") else [own, *others[1:]]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if own == "-c":
        exec(compile(others[0], "<string>", "exec"), vars(main))
    elif own == "-m":
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(own, run_name="__main__")


def _main():
    path = sys.path[1:]  # without the directory of this file
    sys.path[:] = path
    importlib.import_module("tensorflow")
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _execute(*request, path)


if __name__ == "__main__":
    _main()
