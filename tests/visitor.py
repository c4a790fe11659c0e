"""A visitor of the app without a browser: what the tests of pages share."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from circuit.prompts.pairs import PromptPair, PromptSet
from circuit.runs.run import Run
from circuit.ui.frame.markdown import JOINER

APP = str(Path(__file__).resolve().parents[1] / "app.py")
PROMPTS, ATTRIBUTE, SCORES, CIRCUIT = (
    f"pages/{name}.py" for name in ("1_Prompts", "2_Attribute", "3_Scores", "4_Circuit")
)
RUNS = "pages/5_Runs.py"
PAGES = [PROMPTS, ATTRIBUTE, SCORES, CIRCUIT]
NUMBERS = PromptSet(
    "numbers",
    tuple(PromptPair(f"{i} 2 3 4", f"{i} 9 3 4", ("6", "45"), ("68",)) for i in (1, 8, 11)),  # the model does it
)


def seen(text: str) -> str:
    """What a reader sees of text with its marks escaped."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace(JOINER, "")


class Visitor:
    """A session of the app in a browser of its own."""

    def __init__(self, page: str | None = None, **query: str) -> None:
        self.at = AppTest.from_file(APP, default_timeout=300)
        self.at.query_params.update(query)
        if page is None:
            self.at.run()
        else:
            self.go(page)
        self.check()

    def check(self) -> None:
        assert not self.at.exception, self.at.exception

    def go(self, page: str) -> None:
        self.at.switch_page(page)
        self.run()

    def run(self) -> None:
        self.at.run()
        self.check()

    def work_on(self, model: str, prompts: PromptSet) -> None:
        """Choose a model and prompts, as 1 · Prompts would."""
        self.at.session_state["model"] = model
        self.at.session_state["prompts"] = prompts
        self.at.session_state["prompt_table"] = 1

    def choose(self, **values: Any) -> None:
        """Set widgets by key."""
        for key, value in values.items():
            (widget,) = [widget for widget in self.widgets() if widget.key == key]
            widget.set_value(value)
            self.run()

    def widgets(self) -> list[Any]:
        at = self.at
        return [
            *at.selectbox,
            *at.segmented_control,
            *at.radio,
            *at.slider,
            *at.number_input,
            *at.toggle,
            *at.select_slider,
        ]

    def button(self, label: str) -> Any:
        (button,) = [button for button in self.at.button if button.label == label]
        return button

    def click(self, label: str) -> None:
        self.button(label).click()
        self.run()

    def wait(self, done: Callable[[], object], seconds: float = 300) -> None:
        """Look again and again, as the page's own timer does, until something is there."""
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, self.words()
            time.sleep(0.15)  # to draw a page takes as much of a processor as the job may need
            self.run()

    def words(self) -> str:
        """All that the page says in words."""
        at = self.at
        parts = [at.header, at.subheader, at.markdown, at.info, at.warning, at.error, at.success, at.caption]
        return seen("\n".join(str(element.value) for elements in parts for element in elements))

    def metrics(self) -> dict[str, str]:
        return {metric.label: metric.value for metric in self.at.metric}

    def errors(self) -> str:
        return seen("\n".join(str(error.value) for error in self.at.error))

    def result(self) -> Run | None:
        """The run that this session looks at."""
        run: Run | None = self.at.session_state["run"] if "run" in self.at.session_state else None  # noqa: SIM401
        return run

    def finish(self) -> Run:
        """Run attribution with what is chosen, and wait for the new run."""
        before = self.result()
        self.click("Run attribution")
        self.wait(lambda: self.errors() or self.result() is not before)
        run = self.result()
        assert run is not None, self.errors()
        assert run is not before, self.errors()
        return run

    def fail(self) -> str:
        """Run attribution with what is chosen, and wait for the sentence that says why not."""
        self.click("Run attribution")
        self.wait(self.errors)
        return self.errors()

    def picture(self) -> str:
        """The circuit's SVG, empty where none is drawn."""
        drawn = self.at.get("bidi_component")
        return json.loads(drawn[0].proto.json)["svg"] if drawn else ""

    def places(self) -> dict[str, tuple[int, ...]]:
        """Where the block lies that holds each widget or picture with a key: a browser draws it anew where that
        changes, and what was opened, zoomed or about to be clicked in it is lost."""
        found: dict[str, tuple[int, ...]] = {}

        def look(block: Any, place: tuple[int, ...]) -> None:
            for index, child in block.children.items():
                if hasattr(child, "children"):
                    look(child, (*place, index))
                elif len(parts := getattr(child.proto, "id", "").split("-", 2)) == 3:
                    found[parts[2]] = place  # the id ends with the key

        look(self.at.main, ())
        return found

    def query(self) -> dict[str, str]:
        """What the address says."""
        return {key: value if isinstance(value, str) else value[0] for key, value in self.at.query_params.items()}

    def figure(self) -> Any:
        """The first chart of the page."""
        return json.loads(self.at.get("plotly_chart")[0].proto.spec)
