"""What is printed for a reader who goes away."""

import subprocess
import sys

from tests.places import PROJECT


def test_a_program_whose_reader_is_gone_goes_on():
    program = (
        "import sys\n"
        "from launch.record.console import get_console\n"
        "sys.stdin.read()\n"
        "for _ in range(3):\n"
        "    get_console().print('a line')\n"
        "print('another')\n"
        "sys.stdout.flush()\n"
        "print('done', file=sys.stderr)\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program], text=True, cwd=PROJECT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    started.stdout.close()
    _, said = started.communicate()
    assert (started.returncode, said) == (0, "done\n")
