"""What a study prints."""

import io
from dataclasses import fields
from types import SimpleNamespace

from rich.console import Console

from launch.simulate import WIDTH
from launch.study.simulation.sizes import Row
from launch.study.simulation.tables import study_table


def test_a_study_with_a_target_fits_into_its_columns():
    row = Row(**{each.name: 4096 for each in fields(Row)})
    profile = SimpleNamespace(accelerator="H100", source="stated")
    console = Console(width=WIDTH, file=io.StringIO())
    console.print(study_table(profile, [row], 0.6))
    assert "\N{HORIZONTAL ELLIPSIS}" not in console.file.getvalue()
    assert "accelerators" in console.file.getvalue()
