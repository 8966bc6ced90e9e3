"""A part of the system that died."""

from launch.cli.refusals import RunError


class PartDied(RunError):  # noqa: N818
    """A part of a run died or hangs."""

    def __init__(self, part: str, how: str, log: str) -> None:
        super().__init__(f"{part} {how}; its log is {log}")
        self.part, self.how, self.log = part, how, log
