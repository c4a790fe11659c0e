"""What pyproject.toml cannot say: a wheel holds the app too, in `circuit/_app`.

In a clone `app.py`, `pages/` and `.streamlit/` stand at the top, where Streamlit looks for them. An installed package
has no top of its own, so there they lie in a folder of the package: `circuit.common.settings.APP` is either.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PAGES = [f"pages/{page.name}" for page in (HERE / "pages").glob("*.py")]
APP = ["app.py", *PAGES, ".streamlit/config.toml", "edgescope.example.toml"]


class WithApp(build_py):
    """Copies the app beside the package's own files, unless these are used where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in APP:
                target = Path(self.build_lib) / "circuit" / "_app" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(HERE / name), str(target))


setup(cmdclass={"build_py": WithApp})
