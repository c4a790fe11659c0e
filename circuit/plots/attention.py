"""A head's attention on a clean and a corrupt prompt, side by side.

attention_heatmaps   two heatmaps on one colour scale, tokens on both axes
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from circuit.plots.colors import HELPS, NEUTRAL, rgba
from circuit.plots.frame import as_text, with_caption


def attention_heatmaps(
    clean: Float[np.ndarray, "pos pos"],
    corrupt: Float[np.ndarray, "pos pos"],
    clean_tokens: Sequence[str],
    corrupt_tokens: Sequence[str],
    *,
    caption: str,
    width: int = 690,
) -> go.Figure:
    """Rows attend to columns, the first token at the top. What lies ahead, which nobody sees, is blank.

    Args:
        clean: Attention weights on the clean prompt, rows adding up to 1.
        corrupt: The same on the corrupt prompt.
        clean_tokens: The clean prompt's tokens.
        corrupt_tokens: The corrupt prompt's tokens.
        caption: One line that says which head and prompt this is; drawn inside the figure.
        width: The narrowest width in pixels that the figure may have.
    """
    figure = make_subplots(rows=1, cols=2, subplot_titles=["clean", "corrupt"], horizontal_spacing=0.16)
    for i, (pattern, tokens) in enumerate(((clean, clean_tokens), (corrupt, corrupt_tokens))):
        names = [f"{at} {as_text(token)}" for at, token in enumerate(tokens)]  # the same token may come twice
        seen = np.where(np.tri(len(names), dtype=bool), pattern, np.nan)
        figure.add_trace(
            go.Heatmap(
                z=seen.astype(np.float32), x=names, y=names, zmin=0, zmax=1, xgap=1, ygap=1,
                colorscale=[(0, rgba(NEUTRAL, 0.08)), (1, rgba(HELPS, 1))], showscale=i == 0, hoverongaps=False,
                colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": "attention", "side": "right"}},
                hovertemplate="<b>%{y}</b> attends to <b>%{x}</b>: %{z:.3f}<extra></extra>",
            ),
            row=1, col=i + 1,
        )  # fmt: skip
    size = 9 if len(clean_tokens) > 12 else 11
    axis = {"type": "category", "showgrid": False, "zeroline": False, "ticks": "", "tickfont": {"size": size}}
    figure.update_xaxes(**axis, tickangle=-90)
    figure.update_yaxes(**axis, autorange="reversed")
    titles = [title.to_plotly_json() for title in figure.layout.annotations]  # which the caption would replace
    with_caption(figure, caption, 260, width, left=76, below=76)
    figure.layout.annotations = [*titles, *figure.layout.annotations]
    return figure
