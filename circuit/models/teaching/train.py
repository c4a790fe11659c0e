"""Train the teaching model: `python -m circuit.models.teaching.train`.

A GPT-2 of 0.6 million parameters learns from random texts of the five tasks (see `circuit.models.teaching.tasks`), one
text a row, none of them ever repeated on purpose. Every word is predicted, but the words that a text decides count more
than those that could have been any name or place, which teach nothing but the templates. Where several words are as
right as each other (all later years), they share the target: drawing one of them would teach the same, only slower.

    Settings     the numbers that make a run
    train        Settings -> model and log; the same numbers, on the same kind of machine, give the same model
    accuracies   the share of held-out prompts whose right answers are all above all wrong ones, by task
    save         model, tokenizer and log -> the folder that ships
    describe     that folder -> its model card, with what the stored model can do

It takes about ten minutes on one CPU core that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuit.common.words import counted
from circuit.models.teaching import FOLDER
from circuit.models.teaching.tasks import MAX_WORDS, NAMES, TASKS, VOCABULARY, Pair, words

BOS, UNKNOWN = "<bos>", "<unk>"
IDS = {word: i for i, word in enumerate((BOS, UNKNOWN, *VOCABULARY))}
SHARES = {"ioi": 0.3, "induction": 0.2, "greater-than": 0.3, "agreement": 0.1, "pronouns": 0.1}
"""How much of the training text is of which task: the harder, the more."""

CARD = Path(__file__).parent / "card.md"
"""The model card, with names in braces where numbers go."""

UNDECIDED_WEIGHT = 0.2
"""What predicting a word that nothing before it decides counts, against 1 for the answers."""


@dataclass(frozen=True)
class Settings:
    """What makes a training run."""

    steps: int = 4000
    rows: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.1
    seed: int = 0
    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 128


@dataclass
class Log:
    """Loss and held-out accuracies on the way."""

    losses: list[float] = field(default_factory=list)
    """The weighted loss of every step."""
    accuracies: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """After how many steps, and by task."""
    seconds: float = 0.0
    words: int = 0


# --- tokens --------------------------------------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word, a mark, or two digits; `<bos>` before each text; `<unk>` for words that no text holds."""
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(r"\d\d"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, IDS[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        unk_token=UNKNOWN,
        model_max_length=MAX_WORDS + 1,
        clean_up_tokenization_spaces=False,
    )


def _ids(text: str) -> list[int]:
    return [IDS[word] for word in words(text)]


def _padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)


class _Texts(NamedTuple):
    """Some texts, padded with 0, and what is to be predicted from all but their last tokens."""

    tokens: Int[Tensor, "row pos"]
    targets: Float[Tensor, "row pos-1 d_vocab"]
    """The share of each token: 1 for the one that follows, or equal shares for those that might follow as well."""
    counts: Float[Tensor, "row pos-1"]
    """What each prediction counts; 0 where there is padding."""


def _texts(random: Random, n: int) -> Iterable[_Texts]:
    """`n` texts, in parts of about the same length, so that little time is spent on padding."""
    texts = [TASKS[key].text(random) for key in random.choices(list(SHARES), list(SHARES.values()), k=n)]
    texts.sort(key=lambda text: sum(len(words(part)) for part in text[:3]))
    size = math.ceil(n / 3)
    for first in range(0, n, size):
        rows, counts, spread = [], [], []
        for row, text in enumerate(texts[first : first + size]):
            prompt, answer, rest = (_ids(part) for part in text[:3])
            rows.append([IDS[BOS], *prompt, *answer, *rest])
            counts.append([UNDECIDED_WEIGHT] * len(prompt) + [1.0] * len(answer) + [UNDECIDED_WEIGHT] * len(rest))
            if text.instead:
                spread.append((row, len(prompt), [IDS[word] for word in text.instead]))
        tokens = _padded(rows, torch.long)
        targets = F.one_hot(tokens[:, 1:], len(IDS)).float()
        for row, place, instead in spread:
            targets[row, place] = 0
            targets[row, place, instead] = 1 / len(instead)
        yield _Texts(tokens, targets, _padded(counts, torch.float32))


# --- training ------------------------------------------------------------------------------------------------------


def train(settings: Settings, say: Callable[[str], None] = print, evaluate_every: int = 500) -> tuple[Any, Log]:
    """Train a model from nothing."""
    torch.manual_seed(settings.seed)
    random = Random(settings.seed)
    config = GPT2Config(
        vocab_size=len(IDS),
        n_positions=MAX_WORDS + 1,
        n_embd=settings.d_model,
        n_layer=settings.n_layers,
        n_head=settings.n_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=IDS[BOS],
        eos_token_id=IDS[BOS],
        use_cache=False,
    )
    model = GPT2LMHeadModel(config).train()
    log = Log()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    held_out = {key: task.pairs(200, seed=1) for key, task in TASKS.items()}

    began = time.perf_counter()
    for step in range(1, settings.steps + 1):
        parts = list(_texts(random, settings.rows))
        total = sum(float(part.counts.sum()) for part in parts)
        optimizer.zero_grad()
        loss = 0.0
        for part in parts:
            logits = model(input_ids=part.tokens).logits[:, :-1]
            losses = F.cross_entropy(logits.flatten(0, 1), part.targets.flatten(0, 1), reduction="none")
            of_part = (losses * part.counts.flatten()).sum() / total
            of_part.backward()
            loss += of_part.item()
            log.words += int((part.counts > 0).sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        log.losses.append(loss)
        if step % evaluate_every == 0 or step == settings.steps:
            found = accuracies(model.eval(), held_out)
            model.train()
            log.accuracies.append((step, found))
            recent = log.losses[-evaluate_every:]
            shares = "  ".join(f"{key} {share:.3f}" for key, share in found.items())
            minutes = (time.perf_counter() - began) / 60
            say(f"step {step:5}  loss {sum(recent) / len(recent):.4f}  {shares}  {minutes:.1f} min")
    log.seconds = time.perf_counter() - began
    return model.eval(), log


def _rate(step: int, settings: Settings) -> float:
    """Up in a line, down in half a cosine."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@torch.no_grad()
def accuracies(model: Any, pairs: dict[str, list[Pair]]) -> dict[str, float]:
    """The share of clean prompts after which every right answer is above every wrong one, by task."""
    return {key: sum(_right(model, of_task)) / len(of_task) for key, of_task in pairs.items()}


def _right(model: Any, pairs: list[Pair]) -> Iterable[bool]:
    prompts = [[IDS[BOS], *_ids(pair.clean)] for pair in pairs]
    logits = model(input_ids=_padded(prompts, torch.long)).logits
    for row, prompt, pair in zip(logits, prompts, pairs, strict=True):
        last = row[len(prompt) - 1]
        right, wrong = ([i for answer in answers for i in _ids(answer)] for answers in pair[2:])
        yield bool(last[right].min() > last[wrong].max())


# --- what ships ----------------------------------------------------------------------------------------------------


def save(model: Any, log: Log, settings: Settings, folder: Path) -> None:
    """Write the model (as float16), its tokenizer and what is known of its training."""
    model.half().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # nobody generates with it
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that older versions of transformers know too
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n")
    hundreds = [log.losses[first : first + 100] for first in range(0, len(log.losses), 100)]
    training = {
        "settings": asdict(settings),
        "seconds": round(log.seconds),
        "words": log.words,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "held_out_accuracies": [{"step": step, **shares} for step, shares in log.accuracies],
        "loss_every_100_steps": [round(sum(losses) / len(losses), 4) for losses in hundreds],
    }
    (folder / "training.json").write_text(json.dumps(training, indent=1) + "\n")


def describe(folder: Path, n_prompts: int = 1000) -> dict[str, float]:
    """Measure the model in a folder on held-out prompts, as it was stored, and write its model card."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = accuracies(model, {key: task.pairs(n_prompts, seed=2) for key, task in TASKS.items()})
    training = json.loads((folder / "training.json").read_text())
    settings = Settings(**training["settings"])
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name != "README.md")
    examples = [(task.title, task.pairs(1)[0]) for task in TASKS.values()]
    card = CARD.read_text().format(
        **asdict(settings),
        parameters=f"{model.num_parameters() / 1e6:.2f}",
        n_tokens=len(IDS),
        context=MAX_WORDS + 1,
        megabytes=f"{size / 1e6:.1f}",
        examples="\n".join(f"- {title}: `{pair.clean}` → `{pair.answers[0].strip()}`" for title, pair in examples),
        accuracies="\n".join(
            f"| {TASKS[key].title} | {SHARES[key]:.0%} | {share:.1%} |" for key, share in found.items()
        ),
        n_prompts=f"{n_prompts:,}",
        n_texts=f"{settings.steps * settings.rows:,}",
        n_words=f"{training['words'] / 1e6:.1f}",
        undecided=UNDECIDED_WEIGHT,
        minutes=round(training["seconds"] / 60),
        threads=counted(training["threads"], "CPU thread"),
        torch=training["torch"],
        n_words_known=len(VOCABULARY),
        n_names=len(NAMES),
        max_words=MAX_WORDS,
    )
    (folder / "README.md").write_text(card)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the teaching model.")
    defaults = Settings()
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write (default: the one that ships)")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; results differ a little between numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = Settings(steps=options.steps, seed=options.seed)

    def say(line: str) -> None:
        print(line, flush=True)

    model, log = train(settings, say)
    save(model, log, settings, options.out)
    for key, share in describe(options.out).items():
        say(f"{TASKS[key].title}: {share:.1%} of held-out prompts")


if __name__ == "__main__":
    main()
