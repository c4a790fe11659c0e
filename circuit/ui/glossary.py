"""What the words of the pages mean: one or two sentences each, a formula where it helps, and who says so.

    TERMS            the terms by key, in the order of the glossary
    GROUPS           what they are grouped under
    find             the terms that hold some text

    print(TERMS["faithfulness"].words)

A key is the term's place in an address (`Glossary?term=faithfulness`), so keys do not change. Words are markdown.
"""

from __future__ import annotations

from dataclasses import dataclass

from circuit.edges.kinds import KINDS, RULES, Kind, Rule

GROUPS = {
    "model": "The model and its parts",
    "prompts": "Prompts and answers",
    "ablation": "Ablation: what replaces what a part wrote",
    "scores": "Scores",
    "circuits": "Circuits, and how good they are",
    "pages": "Working with these pages",
}


@dataclass(frozen=True)
class Source:
    """Where a term comes from."""

    title: str
    url: str


@dataclass(frozen=True)
class Term:
    """One entry. `also` names the keys of entries that help to understand it."""

    key: str
    name: str
    group: str
    words: str
    formula: str = ""
    source: Source | None = None
    also: tuple[str, ...] = ()


ELHAGE = Source("Elhage et al. 2021", "https://transformer-circuits.pub/2021/framework/index.html")
WANG = Source("Wang et al. 2022", "https://arxiv.org/abs/2211.00593")
CONMY = Source("Conmy et al. 2023", "https://arxiv.org/abs/2304.14997")
SYED = Source("Syed et al. 2023", "https://arxiv.org/abs/2310.10348")
HANNA = Source("Hanna et al. 2024", "https://arxiv.org/abs/2403.17806")
ZHANG = Source("Zhang & Nanda 2023", "https://arxiv.org/abs/2309.16042")
HEIMERSHEIM = Source("Heimersheim & Nanda 2024", "https://arxiv.org/abs/2404.15255")
MILLER = Source("Miller et al. 2024", "https://arxiv.org/abs/2407.08734")
MUELLER = Source("Mueller et al. 2025", "https://arxiv.org/abs/2504.13151")
ANANI = Source("Anani et al. 2026", "https://arxiv.org/abs/2602.22968")
AUTOCIRCUIT = Source("AutoCircuit", "https://github.com/UFO-101/auto-circuit")
AINSLIE = Source("Ainslie et al. 2023", "https://arxiv.org/abs/2305.13245")


def _of_kind(kind: Kind) -> Term:
    """The entry of a method, from what it says of itself."""
    name = kind.title if kind.short.lower() in ("one point", kind.title.lower()) else f"{kind.title} ({kind.short})"
    words = f"{kind.sentence} {kind.limits}"
    return Term(kind.key, name, "scores", words, kind.formula, kind.source and Source(*kind.source), kind.also)


def _of_rule(rule: Rule) -> Term:
    """The entry of a rule of the backward pass, from what it says of itself."""
    words = f"{rule.sentence} {rule.limits}"
    return Term(rule.key, rule.title, "scores", words, source=rule.source and Source(*rule.source), also=rule.also)


_TERMS = (
    # --- the model ---------------------------------------------------------------------------------------------------
    Term(
        "residual-stream",
        "Residual stream",
        "model",
        "The vector that every token position carries through the model. It starts as the token's embedding; each part "
        "reads it and adds what it writes, and the next token is read off its end.",
        source=ELHAGE,
        also=("source", "destination"),
    ),
    Term(
        "node",
        "Node",
        "model",
        "A part of the model that reads from or writes to the residual stream: Resid Start (the embedding), an "
        "attention head, an MLP, or Resid End (the end of the stream).",
        source=CONMY,
        also=("head", "mlp", "edge"),
    ),
    Term(
        "edge",
        "Edge",
        "model",
        "The connection from one part that writes to a later part that reads: the share that the one contributes to "
        "what the other sees. Every earlier writer has an edge to every later reader.",
        source=CONMY,
        also=("source", "destination", "score"),
    ),
    Term(
        "source",
        "Source",
        "model",
        "The writing end of an edge: `Resid Start` (the embedding), the output of a head (`A3.7`: layer 3, head 7) or "
        "of an MLP (`MLP 3`). Layers and heads are counted from 0.",
        also=("destination", "edge"),
    ),
    Term(
        "destination",
        "Destination",
        "model",
        "The reading end of an edge: the query, key or value input of a head (`A3.7.Q`, `.K`, `.V`), the key or value "
        "input of a key-value head that several heads share (`A3.kv1.K`, `A3.kv1.V`), the input of an MLP (`MLP 3`), "
        "or `Resid End` (the final residual), from which the next token is read.",
        also=("source", "query-key-value"),
    ),
    Term(
        "head",
        "Attention head",
        "model",
        "The part that moves information between token positions: it looks from each position back at others, and "
        "copies something of what stands there. A layer has several.",
        source=ELHAGE,
        also=("query-key-value", "attention-pattern"),
    ),
    Term(
        "query-key-value",
        "Query, key, value",
        "model",
        "The three inputs of a head: the query says what a position looks for, the key what a position offers to be "
        "found by, and the value what is copied from it. Each is a destination of its own.",
        source=ELHAGE,
        also=("head", "key-value-head"),
    ),
    Term(
        "key-value-head",
        "Key-value head",
        "model",
        "In models with grouped-query attention several heads share one key and value. These are then one node each, "
        "as in the model itself, and not copies.",
        source=AINSLIE,
        also=("query-key-value",),
    ),
    Term(
        "mlp",
        "MLP",
        "model",
        "The part of a layer that works on each token position by itself: it reads the stream there, computes, and "
        "writes back. Much of what a model knows is thought to sit there.",
        also=("node",),
    ),
    Term(
        "attention-pattern",
        "Attention pattern",
        "model",
        "For one head and one prompt: how much each position (row) looks at each earlier one (column). Every row adds "
        "up to 1.",
        also=("head",),
    ),
    Term(
        "token",
        "Token",
        "model",
        "The pieces that a model reads and writes: words, parts of words, marks. A leading space usually belongs to "
        "the token and is shown as `·`.",
        also=("bos", "answer"),
    ),
    Term(
        "logit",
        "Logit",
        "model",
        "The number that the model gives each token as the next one. A softmax over all logits makes probabilities of "
        "them; a difference of 1 between two logits makes one of the tokens 2.7 times as likely as the other.",
        also=("grad-function",),
    ),
    # --- prompts -----------------------------------------------------------------------------------------------------
    Term(
        "clean-prompt",
        "Clean prompt",
        "prompts",
        "A text that shows the behaviour: after it, the right answer should come next.",
        source=HEIMERSHEIM,
        also=("corrupt-prompt", "answer"),
    ),
    Term(
        "corrupt-prompt",
        "Corrupt prompt",
        "prompts",
        "The smallest edit of the clean prompt that removes the behaviour. What the two share cancels out, so scores "
        "are about what they differ in. Both should have the same number of tokens.",
        source=HEIMERSHEIM,
        also=("clean-prompt", "resample"),
    ),
    Term(
        "answer",
        "Right answer",
        "prompts",
        "The next token that is right after the clean prompt, usually with its leading space. There can be several; "
        "each must be one token of the model.",
        also=("wrong-answer", "token"),
    ),
    Term(
        "wrong-answer",
        "Wrong answer",
        "prompts",
        "A next token that is wrong after the clean prompt, best the one that is right after the corrupt prompt. The "
        "difference between right and wrong answers is what most measurements are of.",
        also=("answer", "answer-function"),
    ),
    Term(
        "prompt-check",
        "Prompt check",
        "prompts",
        "Whether scores of these prompts can mean anything: rows that cannot be used, and whether the model does the "
        "task and loses it on the corrupt prompts. Where it does not, no circuit for the task can be found.",
        also=("clean-prompt", "corrupt-prompt"),
    ),
    Term(
        "bos",
        "BOS token",
        "prompts",
        "A token that marks the beginning of a text. Models that were trained with it do worse without, and the other "
        "way round; the tokenizer usually knows.",
        also=("token",),
    ),
    Term(
        "held-out",
        "Held out",
        "prompts",
        "Prompt pairs that are kept from scoring, so that the circuit can be measured on pairs it does not stem from. "
        "A circuit that is faithful only on the scored pairs has learned these by heart.",
        also=("faithfulness",),
    ),
    # --- ablation ----------------------------------------------------------------------------------------------------
    Term(
        "ablation",
        "Ablation",
        "ablation",
        "Replacing what a part wrote by something that does not carry the information in question, to see what breaks. "
        "Here single edges are ablated: one reader gets the replacement, all others the original.",
        source=HEIMERSHEIM,
        also=("resample", "zero", "mask-value"),
    ),
    Term(
        "resample",
        "Resample ablation",
        "ablation",
        "The replacement is what the same part wrote on the other prompt of the pair. It stays realistic and isolates "
        "what the two prompts differ in: the usual choice.",
        source=ZHANG,
        also=("ablation", "corrupt-prompt"),
    ),
    Term(
        "zero",
        "Zero ablation",
        "ablation",
        "The replacement is zero: the part is taken out altogether. Simple, but the model has never seen such a "
        "stream, so it may break for reasons that have nothing to do with the task.",
        source=ZHANG,
        also=("ablation",),
    ),
    Term(
        "tokenwise-mean-clean",
        "Tokenwise mean, clean",
        "ablation",
        "The replacement is the part's mean over all clean prompts, position by position. It removes what differs "
        "between the prompts and keeps what they share. Needs prompts of one length.",
        source=AUTOCIRCUIT,
        also=("ablation",),
    ),
    Term(
        "tokenwise-mean-corrupt",
        "Tokenwise mean, corrupt",
        "ablation",
        "The replacement is the part's mean over all corrupt prompts, position by position. Needs prompts of one "
        "length.",
        source=AUTOCIRCUIT,
        also=("ablation",),
    ),
    Term(
        "tokenwise-mean-clean-and-corrupt",
        "Tokenwise mean, clean and corrupt",
        "ablation",
        "The replacement is the part's mean over all prompts of both kinds, position by position. Needs prompts of one "
        "length.",
        source=AUTOCIRCUIT,
        also=("ablation",),
    ),
    Term(
        "batch-tokenwise-mean",
        "Batch tokenwise mean",
        "ablation",
        "The replacement is the part's mean over the prompts of the batch, position by position. It depends on the "
        "batch size, so one has to be chosen.",
        source=AUTOCIRCUIT,
        also=("ablation", "batch-size"),
    ),
    Term(
        "batch-all-tok-mean",
        "Batch mean over all tokens",
        "ablation",
        "The replacement is one mean over all prompts and positions of the batch. It depends on the batch size, so one "
        "has to be chosen; prompts may differ in length.",
        source=AUTOCIRCUIT,
        also=("ablation", "batch-size"),
    ),
    # --- scores ------------------------------------------------------------------------------------------------------
    Term(
        "score",
        "Score and its sign",
        "scores",
        "An estimate of how much the loss rises when the edge is ablated. **Positive: ablating the edge should "
        "hurt the task, so the edge helps. Negative: the edge works against it.** Importance is the absolute value.",
        "score[d, s] = mean over prompts of Σ over positions of ⟨∂L/∂x_d , a_s − c_s⟩, with x_d what the destination "
        "reads, c_s what the source wrote, a_s what replaces it",
        SYED,
        ("loss", "ablation", "effect"),
    ),
    Term(
        "loss",
        "Loss",
        "scores",
        "Minus the answer value: small when the model does the task well.",
        "L = −(answer function of the grad function of the logits)",
        also=("answer-function", "grad-function"),
    ),
    Term(
        "grad-function",
        "Grad function",
        "scores",
        "What is read off the model's output at the answers: logits (`logit`), probabilities (`prob`), log "
        "probabilities (`logprob`), or exponentials of the logits over their sum held constant (`logit_exp`).",
        source=AUTOCIRCUIT,
        also=("logit", "answer-function"),
    ),
    Term(
        "answer-function",
        "Answer function",
        "scores",
        "How the answers become one number per prompt: right minus wrong (`avg_diff`), right only (`avg_val`), or "
        "minus the squared distance from a target (`mse`). Larger is better at the task.",
        source=AUTOCIRCUIT,
        also=("grad-function", "loss"),
    ),
    Term(
        "mask-value",
        "Mask value",
        "scores",
        "How far edges are ablated: at 0 the model is untouched, at 1 every edge carries its replacement. Scores are "
        "gradients with respect to it.",
        "an edge carries (1 − m) · current + m · ablated",
        AUTOCIRCUIT,
        ("ablation", "eap", "integrated-gradients"),
    ),
    *map(_of_kind, KINDS),
    Term(
        "backward-pass",
        "Backward pass",
        "scores",
        "How the loss is led back to what each part reads. The gradient says what a tiny change would do; RelP and GIM "
        "replace it by slopes that reach further, where a part saturates or renormalises. The forward pass stays what "
        "it is.",
        also=("score", "relp", "gim"),
    ),
    *(_of_rule(rule) for backward, rule in RULES.items() if backward != "gradient"),
    Term(
        "integration-rule",
        "Integration rule",
        "scores",
        "Which mask values integrated gradients average, and with which weights. The reference rule is AutoCircuit's; "
        "trapezoid and midpoint come closer to the integral with as many points.",
        also=("integrated-gradients",),
    ),
    Term(
        "positions-apart",
        "Positions apart",
        "scores",
        "Every edge gets a score at each token position instead of one for all. The circuit then shows where in the "
        "prompt something happens. All prompts need the same number of tokens.",
        also=("token", "score"),
    ),
    Term(
        "batch-size",
        "Batch size",
        "scores",
        "How many prompts go through the model at a time: a question of memory and speed. Only the two batch means "
        "depend on it.",
        also=("batch-tokenwise-mean", "batch-all-tok-mean"),
    ),
    Term(
        "precision",
        "Precision",
        "scores",
        "The number format of the model's weights and activations. bfloat16 and float16 take half the memory of "
        "float32 and are less exact.",
    ),
    Term(
        "effect",
        "Measured effect",
        "scores",
        "What ablating one edge alone really does to the loss. A score at mask value 0 is the linear estimate of it; "
        "other scores are slopes where all edges are ablated together. An edge that really does the opposite of what "
        "its score estimates is marked with ≠.",
        source=HEIMERSHEIM,
        also=("score",),
    ),
    # --- circuits ----------------------------------------------------------------------------------------------------
    Term(
        "circuit",
        "Circuit",
        "circuits",
        "The edges that are kept, while all others are ablated. A good circuit is small and still does the task.",
        source=WANG,
        also=("pruning", "faithfulness"),
    ),
    Term(
        "pruning",
        "Pruning",
        "circuits",
        "Ranking the edges by score and keeping the strongest only: a number of them, those above a score, or as many "
        "as hold a share of the total. The ranking is by absolute score, by positive score only, or by signed score, "
        "which goes on from the positive ones into the negative ones.",
        also=("circuit", "dead-end"),
    ),
    Term(
        "dead-end",
        "Dead end",
        "circuits",
        "A kept edge that lies on no path from Resid Start to Resid End within the circuit. Under resample "
        "ablation it carries the same as if it were ablated, or nothing reads it, so leaving it out changes nothing. "
        "Under zero and mean ablation a part that reads ablated values only still writes something, and leaving its "
        "edges out can change what the circuit does.",
        also=("circuit",),
    ),
    Term(
        "faithfulness",
        "Faithfulness",
        "circuits",
        "How much of the model's behaviour the circuit keeps: 100 % is as good as the whole model, 0 % as bad as the "
        "model with every edge ablated. It can be below 0 or above 100 %.",
        "f(C) = (m(C) − m(M₀)) / (m(M) − m(M₀)), with m the mean answer value, M the model, M₀ the ablated model",
        HANNA,
        ("held-out", "cpr", "random-circuit"),
    ),
    Term(
        "believe",
        "When to believe a circuit",
        "circuits",
        "When the model does the task on these prompts, the circuit is faithful on held-out pairs, random circuits of "
        "its size are not, the 95 % interval is narrow, and measured effects agree with the scores. Faithfulness also "
        "depends on the ablation, so try another one.",
        source=MILLER,
        also=("faithfulness", "held-out", "random-circuit", "interval", "effect"),
    ),
    Term(
        "interval",
        "95 % interval",
        "circuits",
        "Where the number would lie for endlessly many prompt pairs of this kind. It comes from drawing the pairs "
        "anew, with replacement (studentised bootstrap), and is never narrower than Student's. From five pairs on such "
        "intervals hold the true number in 93 to 98 % of cases, and in about 90 % where a few pairs stand far out.",
        also=("faithfulness", "stability"),
    ),
    Term(
        "known-circuit",
        "Known circuit",
        "circuits",
        "A model whose weights were compiled from a program has a circuit that is known: ablating all other edges "
        "leaves its output as it is, and each edge inside matters. There a method can be checked, by precision, recall "
        "and AUROC, rather than believed.",
        also=("auroc", "believe", "circuit"),
    ),
    Term(
        "auroc",
        "AUROC, precision, recall",
        "circuits",
        "Against a known circuit. Precision: which share of the edges found belong to it. Recall: which share of it "
        "was found. AUROC: how often an edge of it has a larger absolute score than one outside, pairs of equals "
        "counting half; 1 is best, 0.5 is chance.",
        also=("known-circuit", "score"),
    ),
    Term(
        "random-circuit",
        "Random circuit",
        "circuits",
        "As many edges, taken at random: what any circuit of that size keeps. A found circuit says something only by "
        "how far it beats it.",
        also=("faithfulness",),
    ),
    Term(
        "cpr",
        "CPR",
        "circuits",
        "Circuit performance ratio: the area under faithfulness over the share of edges kept. Larger is better. The "
        "benchmark that it comes from takes it of circuits by signed score: the largest scores first, the negative "
        "ones last. Circuits that keep nothing until all edges are there have 0.25, circuits that keep everything "
        "0.999; more than that is not recovery: the circuit outdoes the model.",
        "∫ f(C_k) dk from k = 0.001 to 1, by the trapezoid rule between k = 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, "
        "0.1, 0.2, 0.5, 1; C_k has the share k of the edges, rounded down",
        MUELLER,
        ("cmd", "faithfulness"),
    ),
    Term(
        "cmd",
        "CMD",
        "circuits",
        "Circuit-model distance: the area between faithfulness and 100 %. Zero is best: circuits of every size behave "
        "just as the model does; circuits that keep nothing until all edges are there have 0.749. The benchmark that "
        "it comes from takes it of circuits by absolute score.",
        "∫ |1 − f(C_k)| dk from k = 0.001 to 1, by the trapezoid rule between the shares that CPR has",
        MUELLER,
        ("cpr", "faithfulness"),
    ),
    Term(
        "enough-or-needed",
        "Enough, needed",
        "circuits",
        "A circuit is enough if the task survives when everything else is ablated. It is needed if the task is lost "
        "when the circuit alone is ablated.",
        source=WANG,
        also=("circuit", "faithfulness"),
    ),
    Term(
        "stability",
        "Stable edge",
        "circuits",
        "An edge that is in the circuit of this size in most bootstrap draws of the prompt pairs: as many pairs, drawn "
        "with replacement. “Fade unstable” draws edges that come and go with the prompts faded.",
        also=("interval", "certified", "sign-holds"),
    ),
    Term(
        "sign-holds",
        "Sign that holds",
        "circuits",
        "The sign of a score that is the same in at least 95 % of bootstrap draws of the prompt pairs. With an edge "
        "marked ± these prompts leave open whether its score says that it helps or hinders.",
        source=Source("arXiv 2510.25786", "https://arxiv.org/abs/2510.25786"),
        also=("score", "stability"),
    ),
    Term(
        "certified",
        "Certified edge",
        "circuits",
        "An edge in the circuits of at least a chosen share of all halves of these prompt pairs; a rejected one is in "
        "those of fewer. Each verdict, by itself, is wrong with a chance of at most 5 %. Where the halves drawn do not "
        "tell, it is an abstention (?). It says nothing about prompts of another kind.",
        "k of 200 random halves hold the edge; certified if the lower Clopper-Pearson bound of its share reaches the "
        "share that is asked for, rejected if the upper one is below it",
        ANANI,
        ("stability", "held-out"),
    ),
    # --- the pages ---------------------------------------------------------------------------------------------------
    Term(
        "heatmap",
        "Heatmap",
        "pages",
        "Rows are destinations (they read), columns sources (they write), and a cell holds the edges between them. The "
        "stronger the colour, the larger the score; hover a cell for its number.",
        also=("score", "source", "destination"),
    ),
    Term(
        "graph-size",
        "How many edges can be read",
        "pages",
        "Graphs of up to 100 edges read well, and up to 250 with zooming and hovering. Look at larger circuits in the "
        "heatmap and the table of 3 · Scores, or export them.",
        also=("circuit",),
    ),
    Term(
        "run",
        "Run",
        "pages",
        "One attribution: the model, prompts and options that were asked for, and the scores that came out. Runs are "
        "saved on the server under an id that stands in the page's address.",
        also=("address",),
    ),
    Term(
        "address",
        "The page's address",
        "pages",
        "The link in the browser's address bar says which run is shown and what was chosen. Send it to show somebody "
        "the same; values that make no sense for the run are left out with a word.",
        also=("run",),
    ),
)

TERMS: dict[str, Term] = {term.key: term for term in _TERMS}


def find(text: str) -> list[Term]:
    """The terms that hold the text in their name (first) or words, whatever the case; all of them for no text."""
    wanted = text.strip().lower()
    hits = [term for term in TERMS.values() if wanted in f"{term.name} {term.words}".lower()]
    return sorted(hits, key=lambda term: wanted not in term.name.lower())
