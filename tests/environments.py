"""Environments in which something is really installed, while all that it requires is seen where it is already."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

RUNNING_ENVIRONMENT = "running_environment.pth"
"""The file of a fresh environment that shows it the packages of the running one."""


def fresh_environment(directory, *project):
    """Make an environment with a project, or a wheel, and nothing else of its own; returns its Python.

    `project` is what `pip install` takes: a path, or `-e` and a path.

    TensorFlow and the others would take minutes and a network to install. The environment sees those of the running one
    instead, by a .pth file, which Python reads when it starts; addsitedir reads the .pth files there, which editable
    installs need. pip runs in it, and builds with the setuptools that is seen there.
    """
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    running = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    lines = [f"import site; site.addsitedir({path!r})\n" for path in sorted(running)]
    (site_packages(directory) / RUNNING_ENVIRONMENT).write_text("".join(lines))
    offline = ["--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check", "-q"]
    # Otherwise pip would take what is seen for what is installed, and leave out a project of the same version.
    offline += ["--ignore-installed"]
    command = [sys.executable, "-m", "pip", f"--python={python}", "install", *offline, *project]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stdout + process.stderr
    return python


def site_packages(directory):
    """Where an environment keeps its packages."""
    (packages,) = (Path(directory) / "lib").glob("python*/site-packages")
    return packages
