"""What the README says works, works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PRINTS = (
    "{0: torch.Size([24, 49152]), 100: torch.Size([24, 49152]), 1000: torch.Size([24, 49152])}",
    "262: 1.0}",
    " signs hold",
    "9 0.83 0.6666666666666666",
)


@pytest.mark.parametrize(
    ("example", "prints"),
    zip(EXAMPLES, PRINTS, strict=True),
    ids=["scores", "faithfulness", "certificates", "known"],
)
def test_the_python_examples_run(example: str, prints: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example, "README.md", "exec"), {})
    assert prints in capsys.readouterr().out


def test_links_to_files_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
