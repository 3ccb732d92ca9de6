"""`tfpyop worker`: run a TensorFlow server in a process that has imported the modules of ops."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys

import tensorflow as tf

from tfpyop._discovery import find_ops
from tfpyop.errors import RegistrationError

_VARIABLE = "TF_CONFIG"
_EXAMPLE = '{"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'


def run(options: argparse.Namespace) -> int:
    """Import modules that define ops, start a server, and wait until the process ends.

    Raises:
      RegistrationError: A module does not exist, or TF_CONFIG does not specify the cluster and the task.
    """
    with contextlib.redirect_stdout(sys.stderr):  # the program that waits for the server reads one line
        names = [name for module in options.modules for name in find_ops(module)]
    server = _cluster_server() if options.dispatcher is None else _data_server(options.dispatcher, options.address)
    print(f"serving {len(names)} ops: {', '.join(names)}", flush=True)  # noqa: T201 - the line that signals readiness
    server.join()
    return 0


def _cluster_server() -> tf.distribute.Server:
    text = os.environ.get(_VARIABLE)
    try:
        config = json.loads("{}" if text is None else text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise RegistrationError(
            f"the environment variable {_VARIABLE} does not specify the cluster and the task of this process.",
            got="the variable is not set" if text is None else f"{text!r:.200} ({reason})",
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
