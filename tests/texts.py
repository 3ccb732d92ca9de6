"""Expected texts in tests."""

import re


def exactly(text):
    """A pattern for `pytest.raises` that matches this text and nothing else."""
    return f"^{re.escape(text)}$"
