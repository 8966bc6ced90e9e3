"""Answers that would take a computer algebra system, a parser or a regex for ever."""

from rollout.rewards.math_answer import MathReward
from rollout.rewards.types import Score

HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "tower without braces": "9^9^9^9^9^9^9^9",
    "tower of e": "e^{e^{e^{e^{e}}}}",
    "large power": "10^{999999999}",
    "large exponent": "1e999999999",
    "large power of a sum": "(x+1)^{10^9}",
    "powers of powers": "((x+1)^{50}+1)^{50}",
    "tower of letters": "x^" * 24 + "x",
    "large factorial": "(10^{10})!",
    "factorials": "9" + "!" * 11,
    "nested factorials": "((9!)!)!",
    "large binomial": r"\binom{10^9}{10^8}",
    "binomial of literals": r"\binom{99999}{55555}",
    "large gamma": r"\Gamma(10^{20})",
    "large greatest divisor": r"\gcd(10^{100000},2)",
    "long sum": r"\sum_{k=1}^{10^{12}} k",
    "long product": r"\prod_{k=1}^{10^{9}} k",
    "integrals": r"\int_0^1 \int_0^1 e^{xy} dx dy",
    "many integrals": r"\int" * 20 + " x dx",
    "derivatives": r"\frac{d}{dx}" * 20 + "x",
    "limit": r"\lim_{x\to 0}\frac{\sin x}{x}",
    "power of a matrix": r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{100000}",
    "round brackets": "(" * 5000 + "1" + ")" * 5000,
    "square brackets": "[" * 8 + "1" + "]" * 8,
    "sets": r"\{" * 9 + "1,2" + r"\}" * 9,
    "fractions": r"\frac{1}{" * 300 + "2" + "}" * 300,
    "open braces": "{" * 100_000,
    "open boxes": r"\boxed{" * 20_000,
    "nested boxes": r"\boxed{" * 20_000 + "1" + "}" * 20_000,
    "dollars": "$" * 50_000,
    "money": r"\$" * 200,
    "bars": "|" * 100 + "1" + "|" * 100,
    "minuses": "-" * 100 + "1",
    "commands": r"\sin" * 60 + " x",
    "fractions without arguments": r"\frac" * 100,
    "subscripts": "x_" * 100 + "x",
    "letters": "a" * 200_000,
    "digits": "1" * 100_000,
    "spaces": " " * 200_000 + "1",
    "newlines": "\n" * 100_000 + "1",
    "commas": "1," * 5000 + "1",
    "pairs": "(1,2)," * 80,
    "roots": r"\{" + ",".join(rf"\sqrt{{{i}}}" for i in range(24)) + r"\}",
    "variables": "+".join(f"x_{{{i}}}" for i in range(60)),
    "chain": "=".join(["1"] * 100),
    "chain of formulas": "=".join(f"x+{i}" for i in range(60)),
    "inequalities": "<".join("abcdefgh" * 5),
    "plus-minus": r"\pm" * 40 + "1",
    "unions": r"\cup".join(["(1,2)"] * 40),
    "complements": r"\mathbb{R}\setminus" * 20 + r"\{0\}",
    "builders": r"\{x | " * 40,
    "texts": r"\text{" * 100 + "a" + "}" * 100,
    "units": "5 " + "a " * 200,
    "repeating": r"0.\overline{" + "9" * 400 + "}",
    "superscripts": "\u00b2" * 1000,
    "vulgar fractions": "\u00bd" * 1000,
    "products": "(a+b)(c+d)" * 20,
    "sines": r"\sin x+" * 40 + "1",
    "logarithm of a tower": r"\log(\log(\log(10^{10^{10}})))",
    "answers": "answer is " * 400 + "answer",
    "alternatives": "1 or " * 900 + "1",
    "approximations": "1 is about " * 400 + "1",
    "chain of approximations": r"\approx".join(["1"] * 100),
    "long approximation": r"1\approx " + "9" * 450,
    "reasons": "1 since " * 500 + "1",
    "spaces after a comma": "answer is 1," + " " * 3900 + "1",
    "sums of units": "1 h " * 120,
    "spelled": "one " * 500,
    "ratio": ":".join(["1"] * 200),
    "open tuples": "(1, 2" * 700,
    "exceptions": ", ".join([r"x\ne \sqrt{2}"] * 30),
    "arrays": r"[\begin{array}" * 100,
    "reversed intervals": "]0,1[" * 90,
    "JSON": '{"answer": "' + "\\" * 4001,
}


class Checked:
    """Scores 1.0 if the response could be an answer of a task, 0.0 if that is refused."""

    def score(self, prompt_text: str, response_text: str, answer: str) -> Score:
        """Check the response as an answer; any other error than the refusal is a crash."""
        try:
            MathReward().check(response_text)
        except ValueError as error:
            assert "got" in str(error)
            return Score(0.0, extracted=str(error))
        return Score(1.0)

    def check(self, answer: str) -> None:
        """Accept all."""
