"""The edges of a model: nodes, and the arithmetic between edges and score tensors.

    Node        something that writes to or reads from the residual stream
    ScoreBlock  the destinations that share one module, and so one tensor of scores
    EdgeGraph   all of them, for one shape of model

    graph = EdgeGraph(n_layers=3, n_heads=4, n_kv_heads=4)
    graph.n_edges                                  # 262
    flat = graph.flatten(scores)                   # one float32 per edge
    graph.edge_name(int(abs(flat).argmax()))       # 'A0.3->A2.1.Q'

A model has up to a million edges, so no object is made for one: an edge is an index from 0 to n_edges - 1 in the
order of `blocks`, and what is known about edges are arrays of that length. Modules are named, and score tensors
shaped, as in AutoCircuit. The graph is that of Elhage et al. 2021 (https://transformer-circuits.pub/2021/framework),
each head's query, key and value input being a destination of its own. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Float32, Int32

from circuit.common.errors import OptionError

NodeKind = Literal["embedding", "head", "mlp", "final"]
BlockKind = Literal["Q", "K", "V", "MLP", "Final"]


class _Flat(Protocol):
    """What a numpy array and a torch tensor have in common here."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    @property
    def reshape(self) -> Callable[..., Any]: ...


Flat = TypeVar("Flat", bound=_Flat)


@dataclass(frozen=True, slots=True)
class Node:
    """A source or destination. `layer` is the block's number, -1 for the embedding, n_layers for the final residual."""

    name: str
    kind: NodeKind
    layer: int
    head: int | None = None

    @property
    def input(self) -> str:
        """Of a destination: which input of its node it is, `Q`, `K`, `V`, `MLP` or `Final`."""
        if self.kind == "head":
            return self.name.rpartition(".")[2]
        return "MLP" if self.kind == "mlp" else "Final"


@dataclass(frozen=True, slots=True)
class ScoreBlock:
    """The destinations of one module: `n_rows` of them, each reading the first `n_sources` sources.

    Its score tensor has shape [n_rows, n_sources]; a module that is not split into heads has no row axis, and with
    token positions kept apart there is a leading position axis.
    """

    module: str
    kind: BlockKind
    layer: int
    n_rows: int
    n_sources: int
    first_destination: int
    first_edge: int
    has_heads: bool


@dataclass(frozen=True)
class EdgeGraph:
    """Sources, destinations and edges of a transformer of this shape.

    Args:
        n_layers: Transformer blocks.
        n_heads: Query heads per block: each is a source and a query destination.
        n_kv_heads: Key-value heads per block: each is a key destination and a value destination.
        parallel: Whether attention and MLP of a block read the same stream (GPT-NeoX, Phi), so that no edge leads
            from a block's heads to its own MLP.
        seq_len: With token positions kept apart, how many; else None.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False
    seq_len: int | None = None

    # --- nodes -------------------------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> list[Node]:
        """All sources, in the order in which they write to the residual stream."""
        nodes = [Node(RESID_START, "embedding", -1)]
        for layer in range(self.n_layers):
            nodes += [Node(f"A{layer}.{head}", "head", layer, head) for head in range(self.n_heads)]
            nodes.append(Node(f"MLP {layer}", "mlp", layer))
        return nodes

    @cached_property
    def blocks(self) -> list[ScoreBlock]:
        """The score blocks, in the model's order: the order of edges and of a `PruneScores` dict."""
        blocks: list[ScoreBlock] = []
        destination = edge = 0

        def add(module: str, kind: BlockKind, layer: int, n_rows: int, n_sources: int, has_heads: bool) -> None:
            nonlocal destination, edge
            blocks.append(ScoreBlock(module, kind, layer, n_rows, n_sources, destination, edge, has_heads))
            destination += n_rows
            edge += n_rows * n_sources * (self.seq_len or 1)

        for layer in range(self.n_layers):
            before = self.n_sources_before(layer)
            add(f"blocks.{layer}.hook_q_input", "Q", layer, self.n_heads, before, True)
            add(f"blocks.{layer}.hook_k_input", "K", layer, self.n_kv_heads, before, True)
            add(f"blocks.{layer}.hook_v_input", "V", layer, self.n_kv_heads, before, True)
            mlp_sources = before if self.parallel else before + self.n_heads
            add(f"blocks.{layer}.hook_mlp_in", "MLP", layer, 1, mlp_sources, False)
        last = self.n_layers - 1
        add(f"blocks.{last}.hook_resid_post", "Final", self.n_layers, 1, self.n_sources, False)
        return blocks

    @cached_property
    def destinations(self) -> list[Node]:
        """All destinations, in the order of the rows of `blocks`."""
        nodes = []
        for block in self.blocks:
            if block.kind == "Final":
                nodes.append(Node(RESID_END, "final", block.layer))
            elif block.kind == "MLP":
                nodes.append(Node(f"MLP {block.layer}", "mlp", block.layer))
            else:
                nodes += [
                    Node(f"A{block.layer}.{head}.{block.kind}", "head", block.layer, head)
                    for head in range(block.n_rows)
                ]
        return nodes

    @property
    def group(self) -> int:
        """How many query heads use one key-value head: 1 without grouped-query attention."""
        return self.n_heads // self.n_kv_heads

    @property
    def has_kv_nodes(self) -> bool:
        """Whether keys and values belong to nodes of their own: with grouped queries, as several heads use them, and
        with token positions kept apart, as they are used at later positions too."""
        return self.group > 1 or self.seq_len is not None

    def label(self, node: Node) -> str:
        """What a source or destination is called wherever a person reads it: on pages, in pictures and in sentences.

        That is its name (AutoCircuit's, as in files), except for keys and values that belong to nodes of their own:
        the name `A3.1.V` for the values of key-value head 1 would read as those of head 1, so that is `A3.kv1.V`.
        """
        if node.kind != "head" or not self.has_kv_nodes or not node.name.endswith((".K", ".V")):
            return node.name
        return f"{self.kv_label(node.layer, int(node.head or 0))}.{node.input}"

    def kv_label(self, layer: int, kv_head: int) -> str:
        """What the node of a key-value head's keys and values is called."""
        return f"A{layer}.kv{kv_head}"

    def kv_head(self, head: int) -> int:
        """The key-value head that a query head uses."""
        return head // self.group

    def heads_of(self, kv_head: int) -> range:
        """The query heads that use a key-value head."""
        return range(kv_head * self.group, (kv_head + 1) * self.group)

    @property
    def n_sources(self) -> int:
        """How many nodes write to the residual stream."""
        return 1 + self.n_layers * (self.n_heads + 1)

    def n_sources_before(self, layer: int) -> int:
        """How many sources have written to the residual stream when block `layer` reads it."""
        return 1 + layer * (self.n_heads + 1)

    def first_head(self, layer: int) -> int:
        """Index of the first head of `layer` among the sources; its MLP is `n_heads` further."""
        return self.n_sources_before(layer)

    # --- edges -------------------------------------------------------------------------------------------------

    @cached_property
    def n_edges(self) -> int:
        last = self.blocks[-1]
        return last.first_edge + last.n_sources * (self.seq_len or 1)

    @property
    def n_edges_by_query_head(self) -> int:
        """How many edges there are if a key-value head's inputs count once for every query head that uses them, as in
        the Mechanistic Interpretability Benchmark."""
        return EdgeGraph(self.n_layers, self.n_heads, self.n_heads, self.parallel, self.seq_len).n_edges

    @cached_property
    def edge_source(self) -> Int32[np.ndarray, "n_edges"]:
        """For every edge, the index of its source."""
        return self._per_edge(lambda block, positions: np.tile(np.arange(block.n_sources), positions * block.n_rows))

    @cached_property
    def edge_destination(self) -> Int32[np.ndarray, "n_edges"]:
        """For every edge, the index of its destination."""

        def rows(block: ScoreBlock, positions: int) -> np.ndarray:
            index = np.arange(block.first_destination, block.first_destination + block.n_rows)
            return np.tile(np.repeat(index, block.n_sources), positions)

        return self._per_edge(rows)

    @cached_property
    def edge_position(self) -> Int32[np.ndarray, "n_edges"]:
        """For every edge, its token position; zeros where positions are summed."""
        return self._per_edge(lambda block, positions: np.repeat(np.arange(positions), block.n_rows * block.n_sources))

    def _per_edge(self, index_of: Any) -> np.ndarray:
        positions = self.seq_len or 1
        return np.concatenate([index_of(block, positions) for block in self.blocks]).astype(np.int32)

    def edge_name(self, edge: int) -> str:
        """The edge's name: source->destination, with the token position where positions are kept apart."""
        source = self.sources[self.edge_source[edge]].name
        destination = self.destinations[self.edge_destination[edge]].name
        position = "" if self.seq_len is None else f" @{self.edge_position[edge]}"
        return f"{source}->{destination}{position}"

    def edge_label(self, edge: int) -> str:
        """The edge's name for reading: its nodes as `label` has them, with an arrow."""
        source = self.sources[self.edge_source[edge]]
        destination = self.destinations[self.edge_destination[edge]]
        position = "" if self.seq_len is None else f" @{self.edge_position[edge]}"
        return f"{self.label(source)} → {self.label(destination)}{position}"

    def check_edges(self, edges: Iterable[int]) -> None:
        """Check that every number is that of an edge.

        Raises:
            OptionError: Names the first number that is not, and the range of edges.
        """
        for edge in edges:
            if not 0 <= edge < self.n_edges:
                raise OptionError(f"There is no edge {edge}: the edges of this model are 0 to {self.n_edges - 1}.")

    # --- score tensors -----------------------------------------------------------------------------------------

    def shape(self, block: ScoreBlock) -> tuple[int, ...]:
        """The shape of the score tensor of `block`."""
        positions = () if self.seq_len is None else (self.seq_len,)
        return (*positions, *((block.n_rows,) if block.has_heads else ()), block.n_sources)

    def flatten(
        self, scores: Mapping[str, Any], *, per_prompt: bool = False
    ) -> Float32[np.ndarray, "*prompts n_edges"]:
        """One array of all scores, in the order of edges.

        Args:
            scores: Arrays by module name, shaped as `shape` says: numpy, or torch on the CPU.
            per_prompt: Whether each has an axis of prompts first, as those of `prompt_scores`: it is kept.

        Raises:
            OptionError: When the scores are not those of a model of this shape.
        """
        parts = []
        for block in self.blocks:
            if block.module not in scores:
                raise OptionError(f"The scores have no entry {block.module!r}: they belong to another model.")
            part = np.asarray(scores[block.module], dtype=np.float32)
            prompts = part.shape[:1] if per_prompt else ()
            if part.shape != (*prompts, *self.shape(block)):
                needed = ", ".join([*(["n_prompts"] if per_prompt else []), *map(str, self.shape(block))])
                raise OptionError(
                    f"The scores of {block.module!r} have shape {list(part.shape)}, and this model needs [{needed}]: "
                    "they belong to another model, or to another number of positions."
                )
            parts.append(part.reshape(*prompts, -1))
        if len(scores) != len(self.blocks):
            raise OptionError(f"The scores have {len(scores)} entries, and this model has {len(self.blocks)} modules.")
        return np.concatenate(parts, axis=-1)

    def unflatten(self, flat: Flat) -> dict[str, Flat]:
        """The inverse of `flatten`: views of one array by module name.

        Args:
            flat: A numpy array or torch tensor [..., n_edges] of any dtype. Axes before the last are kept, first.
        """

        def view(block: ScoreBlock) -> Flat:
            shape = self.shape(block)
            part = flat[..., block.first_edge : block.first_edge + int(np.prod(shape))]
            return part.reshape(*flat.shape[:-1], *shape)

        return {block.module: view(block) for block in self.blocks}

    def to_dict(self) -> dict[str, Any]:
        """The shape as plain values, for JSON: `EdgeGraph(**graph.to_dict())` is the same graph."""
        return {
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "parallel": self.parallel,
            "seq_len": self.seq_len,
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The graph whose shape is among `values`, as in `to_dict` or in the attributes of a `circuit_graph`; what is
        missing there has its default.

        Raises:
            OptionError: When the number of layers or heads is missing.
        """
        if missing := [name for name in ("n_layers", "n_heads", "n_kv_heads") if name not in values]:
            raise OptionError(f"The shape of the model has no entry {missing[0]!r}.")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


RESID_START, RESID_END = "Resid Start", "Resid End"
"""The first source, which is the embedding, and the last destination, the final residual that the unembedding reads."""
INPUT_LABELS: dict[BlockKind, str] = {"Q": "Q", "K": "K", "V": "V", "MLP": "MLP", "Final": RESID_END}
"""What an edge's `input` is called wherever a person reads it."""
INPUT_WORDS = {"Q": "query input", "K": "key input", "V": "value input", "MLP": "input", "Final": "input"}
"""What an edge's `input` is called in a sentence."""
