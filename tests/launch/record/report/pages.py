"""What a page of charts holds."""

import base64
import json

import numpy as np


def figures(page):
    text = page.split('id="data">')[1].split("</script>")[0]
    return json.loads(text)["figures"]


def decoded(values):
    """Plotly writes arrays as base64."""
    if not isinstance(values, dict):
        return np.asarray(values, dtype=float)
    return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
