"""The methods by name, with all that is said of them: one entry per method.

    Kind      a method's title, what its scores are, what it costs, and where it fails
    KINDS     all of them; a `Method` finds its own (`Method.kind`)
    OFFERED   those that the forms of 2 · Attribute and Sweep offer
    RULES     what is said of the rules of the backward pass, which go with any of them

The form, captions, tables, the comparison, the tour and the glossary read from here. `docs/contributing.md` says how to
add a method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Asked = Literal["mask_val", "integrated_grad_samples", "learning_steps"]


@dataclass(frozen=True)
class Kind:
    """A method, whatever its loss and its ablation.

    Templates are filled with `m`, the mask value; `n`, the number of points; `rule`, the integration rule; `path`; and
    `steps` and `seed`, those of learning.

    Attributes:
        key: Its place in the glossary's address.
        title: Its name.
        short: Its name in tables.
        sentence: What it does.
        limits: What it costs beside others, and where it fails.
        score: What a score is, as in "it is the ..."; a template.
        points: Which points of the path; a template.
        caption: What captions call it; a template.
        paths: The paths that it is a method of; the first is the one that a form takes.
        mask_val: Its mask value, where that is not asked for.
        asks: Which number a form asks for; `integrated_grad_samples` goes with an integration rule, and
            `learning_steps` with a seed.
        foretells: Whether a score estimates what ablating its edge alone does to the loss.
        formula: Where one helps.
        source: Who published it, as a title and an address; None where there is nothing to cite.
        also: Other entries of the glossary that help to understand it.
    """

    key: str
    title: str
    short: str
    sentence: str
    limits: str
    score: str
    points: str
    caption: str
    paths: tuple[str, ...]
    mask_val: float | None = None
    asks: Asked | None = None
    foretells: bool = False
    formula: str = ""
    source: tuple[str, str] | None = ("AutoCircuit", "https://github.com/UFO-101/auto-circuit")
    also: tuple[str, ...] = ()

    @property
    def averages(self) -> bool:
        """Whether its scores are a mean over several points."""
        return self.mask_val is None and self.asks != "mask_val"

    def options(
        self,
        mask_val: float = 0.0,
        integrated_grad_samples: int = 1,
        integration_rule: str = "reference",
        learning_steps: int = 1,
        learning_seed: int = 0,
    ) -> dict[str, Any]:
        """The options that make a `circuit.edges.method.Method` one of this kind, along its first path; each of these
        counts only where the kind asks for it."""
        options: dict[str, Any] = {"path": self.paths[0], "mask_val": self.mask_val}
        if self.asks == "mask_val":
            options["mask_val"] = mask_val
        elif self.asks == "integrated_grad_samples":
            options |= {"integrated_grad_samples": integrated_grad_samples, "integration_rule": integration_rule}
        elif self.asks == "learning_steps":
            options |= {"learning_steps": learning_steps, "learning_seed": learning_seed}
        return options

    def fits(self, path: str, mask_val: float | None) -> bool:
        """Whether a method with this path and mask value (None where there are several points) is of this kind."""
        if path not in self.paths:
            return False
        if self.averages:
            return mask_val is None
        return mask_val is not None and self.mask_val in (None, mask_val)


@dataclass(frozen=True)
class Rule:
    """A rule of the backward pass.

    Attributes:
        key: Its place in the glossary's address.
        title: Its name.
        sentence: What it does.
        limits: Where it helps, and what to keep in mind.
        source: Who published it, as a title and an address; None where there is nothing to cite.
        also: Other entries of the glossary that help to understand it.
    """

    key: str
    title: str
    sentence: str
    limits: str
    source: tuple[str, str] | None = None
    also: tuple[str, ...] = ("backward-pass",)


RELP = ("RelP, 2025", "https://arxiv.org/abs/2508.21258")
GIM = ("GIM, 2025", "https://arxiv.org/abs/2505.17630")
HANNA = ("Hanna et al. 2024", "https://arxiv.org/abs/2403.17806")

EAP = Kind(
    "eap",
    "Edge attribution patching",
    "EAP",
    "One gradient, at the untouched model.",
    "Fast, and blind where the model is saturated: there small changes make no difference.",
    score="linear estimate",
    points="m = {m:g}",
    caption="edge attribution patching",
    paths=("masks", "inputs"),
    mask_val=0.0,
    foretells=True,
    source=("Syed et al. 2023", "https://arxiv.org/abs/2310.10348"),
    also=("integrated-gradients", "mask-value"),
)
INTEGRATED_GRADIENTS = Kind(
    "integrated-gradients",
    "Integrated gradients",
    "IG",
    "The average gradient on the way from the untouched to the ablated model.",
    "Costs one pass per point, and is more faithful where the model is saturated.",
    score="mean slope of the loss while all edges are ablated together",
    points="{n} points, {rule} rule",
    caption="integrated gradients, {n} points ({rule} rule)",
    paths=("masks",),
    asks="integrated_grad_samples",
    formula="score = ∫₀¹ ∂L/∂m dm, as a weighted sum over a few m",
    source=("Sundararajan et al. 2017", "https://arxiv.org/abs/1703.01365"),
    also=("eap", "integration-rule"),
)
ONE_MASK_VALUE = Kind(
    "one-mask-value",
    "Gradient at one mask value",
    "one point",
    "One gradient, with every edge ablated to the same degree.",
    "As fast as edge attribution patching; its scores describe a model that is partly ablated.",
    score="slope of the loss where all edges are ablated by {m:g}",
    points="m = {m:g}",
    caption="mask gradient at m = {m:g}",
    paths=("masks",),
    asks="mask_val",
    also=("eap", "mask-value"),
)
EAP_IG_INPUTS = Kind(
    "eap-ig-inputs",
    "EAP-IG over inputs",
    "EAP-IG-inputs",
    "The average gradient while the embedding of the clean prompt turns into that of the other one.",
    "Costs one pass per point, and needs the resample ablation.",
    score="mean estimate while the clean prompt's embedding turns into the other's",
    points="{n} points over inputs, {rule} rule",
    caption="integrated gradients over inputs, {n} points ({rule} rule)",
    paths=("inputs",),
    asks="integrated_grad_samples",
    source=HANNA,
    also=("integrated-gradients", "integration-rule"),
)
EAP_IG_ACTIVATIONS = Kind(
    "eap-ig-activations",
    "EAP-IG over activations",
    "EAP-IG-activations",
    "The average gradient while one group of parts at a time turns into what replaces it, all before it staying clean.",
    "Costs one pass per point for the embedding and for the heads and the MLP of every layer.",
    score="mean estimate while one group of parts at a time is ablated",
    points="{n} points over activations, {rule} rule",
    caption="integrated gradients over activations, {n} points ({rule} rule)",
    paths=("activations",),
    asks="integrated_grad_samples",
    source=HANNA,
    also=("integrated-gradients", "integration-rule"),
)
CLEAN_CORRUPTED = Kind(
    "clean-corrupted",
    "Clean-corrupted",
    "clean-corrupted",
    "The mean of two gradients: on the clean prompt, and on the other one.",
    "Costs two passes, and needs the resample ablation.",
    score="mean of the linear estimates from the clean and from the corrupt prompt",
    points="both ends",
    caption="gradient at the clean and the corrupt prompt",
    paths=("ends",),
    source=HANNA,
    also=("eap", "eap-ig-inputs"),
)
ONE_POINT = Kind(
    "one-point",
    "Gradient at one point of a path",
    "one point",
    "One gradient, some way along a path from the untouched model to what replaces its activations.",
    "As fast as edge attribution patching; its scores describe a model that is partly ablated.",
    score="estimate some way, {m:g} of it, along the path over {path}",
    points="m = {m:g} over {path}",
    caption="gradient over {path} at m = {m:g}",
    paths=("inputs", "activations"),
    asks="mask_val",
    source=HANNA,
    also=("eap", "eap-ig-inputs"),
)
LEARNED = Kind(
    "learned-masks",
    "Learned masks",
    "learned",
    "Circuits of random sizes are run and corrected, step by step, so that those of the strongest edges do what the "
    "model does.",
    "Costs hundreds of forward and backward passes of eight prompts each, and fits the prompts that it sees: "
    "hold some out.",
    score="inverse size of the circuits from which on the edge belongs, as learned, with integrated gradients' sign",
    points="{steps:,} steps, seed {seed}",
    caption="learned masks, {steps:,} steps (seed {seed})",
    paths=("learned",),
    asks="learning_steps",
    source=("Bhaskar et al. 2024", "https://arxiv.org/abs/2406.16778"),
    also=("mask-value", "faithfulness", "held-out"),
)
AVERAGED = Kind(
    "averaged-runs",
    "Mean of several runs",
    "mean of runs",
    "The scores of several runs of the same prompts, each run's divided by their absolute sum, and averaged.",
    "What the runs agree about stands out; it is made on 6 · Compare, and costs no pass.",
    score="mean share of a run's total absolute score",
    points="those of its runs",
    caption="mean of several runs' normalised scores",
    paths=("averaged",),
    source=None,
    also=("score", "eap", "integrated-gradients"),
)

KINDS = (
    EAP,
    INTEGRATED_GRADIENTS,
    ONE_MASK_VALUE,
    EAP_IG_INPUTS,
    EAP_IG_ACTIVATIONS,
    CLEAN_CORRUPTED,
    ONE_POINT,
    LEARNED,
    AVERAGED,
)
"""A method is of the first kind that fits."""
OFFERED = (INTEGRATED_GRADIENTS, EAP, EAP_IG_INPUTS, CLEAN_CORRUPTED, EAP_IG_ACTIVATIONS, ONE_MASK_VALUE, LEARNED)
"""In the order of the forms: the default first."""

RULES = {
    "gradient": Rule(
        "backward-pass",
        "Gradient",
        "The loss is differentiated as it is.",
        "The other rules replace the slope by one that reaches further, where a part saturates or renormalises.",
        also=("score", "relp", "gim"),
    ),
    "relp": Rule(
        "relp",
        "RelP",
        "Norms are held constant, an activation counts as the line through the origin, and each factor of a gated MLP "
        "gets half of the gradient.",
        "Takes about as long as the gradient, and its scores no longer are slopes of the loss.",
        RELP,
        ("backward-pass", "relp-constant-attention"),
    ),
    "relp+constant-attention": Rule(
        "relp-constant-attention",
        "RelP with constant attention",
        "As RelP, with attention patterns held constant.",
        "Edges into queries and keys, which only steer where a head looks, get no score.",
        RELP,
        ("backward-pass", "relp", "query-key-value"),
    ),
    "gim": Rule(
        "gim",
        "GIM",
        "Norms are held constant, attention's softmax is differentiated as at temperature 2, gradients at queries and "
        "keys are quartered, and those at values and at both factors of a gated MLP halved.",
        "Takes about as long as the gradient, and its scores no longer are slopes of the loss.",
        GIM,
    ),
    "linear-mlp+gim-attention": Rule(
        "linear-mlp-gim-attention",
        "Linear MLP and GIM attention",
        "RelP's rule for activations and GIM's for attention; norms as they are.",
        "Takes about as long as the gradient, and its scores no longer are slopes of the loss.",
        also=("backward-pass", "relp", "gim"),
    ),
}
"""What is said of each rule of the backward pass (`circuit.edges.method.Backward`)."""


def kind_of(path: str, mask_val: float | None, kinds: Sequence[Kind] = KINDS) -> Kind:
    """The kind of a method with this path and mask value; None means that there are several points."""
    return next(kind for kind in kinds if kind.fits(path, mask_val))
