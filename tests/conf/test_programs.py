import pytest

from conf.programs import BudgetConfig, CompareConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("arms", {}),
        ("arms", {"a/b": []}),
        ("seeds", []),
        ("seeds", [1, 2, 1]),
        ("max_steps", 0),
        ("budget.axis", "euros"),
        ("budget.amount", 0.0),
        ("budget.amount", 2.5),
        ("budget.amount", float("nan")),
        ("budget.shares", BudgetConfig(amount=100, shares={"two": 0.5})),
    ],
)
def test_a_comparison_refuses(key, value):
    settings = {
        "name": "x", "run_dir": "y", "base": [], "arms": {"one": []}, "seeds": [0],
        "budget": BudgetConfig(amount=100),
    }  # fmt: skip
    CompareConfig(**settings)
    with pytest.raises(ValueError, match=rf"^{key} must .*, got "):
        if key in ("budget.axis", "budget.amount"):
            BudgetConfig(**({"amount": 100} | {key.removeprefix("budget."): value}))
        CompareConfig(**(settings | {key.split(".")[0]: value}))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_of_a_budget_is_a_share(share):
    with pytest.raises(ValueError, match=r"^budget\.shares\.ours must be in \(0, 1\], got "):
        BudgetConfig(amount=100, shares={"ours": share})


def test_a_budget_of_steps_must_fit_the_steps():
    settings = {"name": "x", "run_dir": "y", "base": [], "arms": {"one": []}, "seeds": [0]}
    budget = BudgetConfig(axis="steps", amount=30)
    CompareConfig(**settings, budget=budget, max_steps=30)
    with pytest.raises(ValueError, match=r"^budget\.amount must not exceed max_steps = 29"):
        CompareConfig(**settings, budget=budget, max_steps=29)
    assert BudgetConfig(axis="seconds", amount=2.5).amount == 2.5
    assert BudgetConfig(axis="compute_flops", amount=2.5e24).amount == 2.5e24
