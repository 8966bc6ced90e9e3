"""The examples that docstrings of records show."""

import inspect
import textwrap
from typing import Any

import numpy as np


def example(record: type, **names: Any) -> Any:
    """Evaluate the code under `Example:` in a record's docstring, in its own module.

    Args:
        record: The class.
        names: What the example means by names that are not of the module.
    """
    shown = inspect.getdoc(record).split("Example:", 1)[1]
    code = shown[shown.index(f"    {record.__name__}(") :]
    arrays = {"array": np.array, "int32": np.int32, "float32": np.float32}
    names = vars(inspect.getmodule(record)) | arrays | names
    value = eval(textwrap.dedent(code), names)
    assert type(value) is record
    return value
