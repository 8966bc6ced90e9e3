"""Where things lie, for tests at any depth."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CONF = PROJECT / "conf"
CHAIN_MODEL = PROJECT / "rollout" / "tasks" / "chain_model"
