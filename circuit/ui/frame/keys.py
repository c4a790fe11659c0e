"""The names under which a session keeps its values, all in one place.

A widget that nobody else reads or fills names its key where it is drawn. Everything else in `st.session_state` has its
name here, except what belongs to one module alone and is made from something: a run, a slot, a table.
"""

from __future__ import annotations

# Every page.
HERE = "here"
"""The page that is shown, as a path."""
MEMORY = "memory"
"""What is remembered for some seconds (`circuit.ui.frame.memory`)."""
NOTICE = "notice"
"""A sentence for the top of the next page."""
VISITOR = "visitor"
"""Whose jobs this session's are, where nobody has signed in."""
DRAFT, DRAFT_IS_OWN = "draft", "draft_is_own"
"""The id of the draft and what was last saved of it; whether this session may write it."""
TOUR_STEP, TOUR_LEFT_AT, TOUR_BEFORE = "tour_step", "tour_left_at", "tour_before"
"""The step of the tour, counted from 0; the one it was left at; model, prompts and run from before it."""

# Model and prompts.
MODEL, PROMPTS, BOS = "model", "prompts", "bos"
FORMER_PROMPTS = "former_prompts"
"""What can be brought back."""
PROMPT_TABLE, PROMPT_BASE = "prompt_table", "prompt_base"
"""How often the table has started over, and what it started from."""
CARDS = "cards"
"""What is known of the models that this session has loaded."""
TOKENIZER_ASKED = "tokenizer_asked"
CHECKED = "measured"
"""What the model says of prompt pairs, by settings."""
ROW, ROW_WANTED = "row", "row_wanted"
"""The row looked at on 1 · Prompts, counted from 1, and the one that was picked in a figure."""
HUB = "hub"
TEMPLATE, TEMPLATE_SLOTS, TEMPLATE_CLEAN = "template", "template-slots", "template-clean"

# The form of 2 · Attribute.
KIND, MASK_VALUE, SAMPLES, RULE, BACKWARD = "kind", "mask_val", "samples", "integration_rule", "backward"
STEPS, SEED = "learning_steps", "learning_seed"
GRAD_FUNCTION, GRAD_WIDGET, ANSWER_FUNCTION = "grad_function", "grad", "answer"
"""The grad function is chosen on two pages: by a widget that each page has, and kept beside it."""
ABLATION, SIDE = "ablation", "side"
PRECISION, DEVICE, BATCH_SIZE, POSITIONS_APART, HELD_OUT = "dtype", "device", "batch", "apart", "held_out"
HELD_OUT_CHOSEN = "held_out_chosen"
"""Whether somebody has said how many pairs to hold out, so that the page no longer does."""
AUDITION, AUDITION_ASKED = "audition_found", "audition_asked"
"""What trying methods was asked, and answered, last; what it is asked now."""
ESTIMATED = "estimated"
"""The settings that were estimated last, and the seconds."""

# Runs.
RUN = "run"
"""The run that is looked at."""
MINE, OWN_RUNS = "mine", "own_runs"
"""The id of this session's list of runs, and the runs in it."""
UNSAVED, TAKEN_IN = "unsaved", "taken"
LOOKED_AT = "looked_at"
"""The id of the run that the filters and circuit controls were set for."""
CURVES, EFFECTS, STABILITY, ATTENTION = "curves", "effects", "stability", "attention_patterns"
"""What has been measured of runs."""

# What is chosen in one run, on 3 · Scores and 4 · Circuit.
FILTERS = ("inputs", "from_layers", "to_layers", "from", "to", "sign", "min")
INPUTS, FROM_LAYERS, TO_LAYERS, FROM, TO, SIGN, LEAST = FILTERS
POSITION, ROWS = "position", "rows"
SIZE_RULE, SIZE, EXACT_SIZE, THRESHOLD, SHARE = "rule", "edges", "exact", "threshold", "share"
RANKED_BY, HANGING = "by", "edges_are"
"""By which score edges are ranked, and how they are taken."""
SIZE_WANTED = "choose_size"
ATTENTION_ROW, MEASURED_ON = "attention_row", "measured_on"
STABLE, OF_HALVES = "stable", "of_halves"
"""What is asked of other draws of the prompts; the share of their halves that a certified edge is in."""
OF_ONE_RUN = (
    *FILTERS,
    *(POSITION, ROWS),
    *(SIZE, THRESHOLD, SHARE, EXACT_SIZE, ATTENTION_ROW),
    *(MEASURED_ON, STABLE, OF_HALVES),
)
"""Widgets whose values mean nothing in another run."""

# 6 · Compare, Sweep and Learn.
COMPARED, COMPARED_NAMED, COMPARED_RUNS = "compared", "named_runs", "compared_runs"
"""Ids of the runs chosen, those that the address named, and the runs themselves."""
COMPARED_PAIR, COMPARED_SIZE = "pair", "n"
SWEEP_TABLE = "sweep_table"
LESSON = "lesson_chosen"
