"""`tfpyop worker`: a server of TensorFlow's, in whose process ops run because it has imported their modules."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable

import tensorflow as tf

from tfpyop._discovery import find_ops
from tfpyop.errors import RegistrationError

_VARIABLE = "TF_CONFIG"
_EXAMPLE = '{"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'


def serve(modules: Iterable[str], dispatcher: str | None, address: str) -> int:
    """Import modules that make ops, start a server, and wait until the process is ended.

    Args:
      modules: Names of modules.
      dispatcher: The `host:port` of a dispatcher of the tf.data service, to be one of its workers. Default: a server
        of `tf.distribute`, as TF_CONFIG says.
      address: The name of this machine by which those of the tf.data service reach it.

    Raises:
      RegistrationError: There is no such module, or TF_CONFIG does not say what to be.
    """
    with contextlib.redirect_stdout(sys.stderr):  # who waits for it reads one line
        names = [name for module in modules for name in find_ops(module)]
    server = _cluster_server() if dispatcher is None else _data_server(dispatcher, address)
    print(f"serving {len(names)} ops: {', '.join(names)}", flush=True)  # noqa: T201 - who waits for it reads this
    server.join()
    return 0


def _cluster_server() -> tf.distribute.Server:
    try:
        config = json.loads(os.environ.get(_VARIABLE, "{}"))
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise RegistrationError(
            f"the environment variable {_VARIABLE} does not specify the cluster and the task of this process.",
            got=f"{os.environ.get(_VARIABLE, 'nothing')!r:.200} ({type(error).__name__}: {error})",
            remedy=f"Set the variable, for example to {_EXAMPLE}. For the tf.data service, pass --dispatcher "
            "HOST:PORT.",
        ) from None
    return tf.distribute.Server(tf.train.ClusterSpec(cluster), job_name=kind, task_index=index, protocol="grpc")


def _data_server(dispatcher: str, address: str) -> tf.data.experimental.service.WorkerServer:
    return tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(
            dispatcher_address=dispatcher, worker_address=f"{address}:%port%", port=0
        )
    )
