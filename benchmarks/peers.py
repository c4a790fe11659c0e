"""How long edge attribution patching takes beside other packages on the same weights, tokens and answers.

    python -m benchmarks.peers                                         both cases, every peer, on the CPU
    python -m benchmarks.peers --case gpt2 --peer autocircuit
    python -m benchmarks.peers --environments FOLDER --markdown        keep the peers' environments for next time

Each peer lives in a virtual environment of its own, made by pip from PyPI and run as `benchmarks.peer_worker`, which
says how each is called:

    AutoCircuit       auto-circuit 1.0.1, `mask_gradient_prune_scores` of logits at mask value 0
    EAP-IG's method   EAP as Hanna et al. (2024) publish it. Their repository is not on PyPI (its `eap` is something
                      else), so this is the method written again on TransformerLens, not the package
    TransformerLens   4.3.0, `attribution_patch` of edges

The model is saved once in Hugging Face format, the prompts once as token ids; both are read by every environment. Where
a peer's logits are not the engine's, nothing of it is reported. What a peer refuses is a line of the table. None of
them scores keys and values that several query heads share, so a copy of SmolLM2 is made with each key-value head
repeated for each of its query heads: the same function, with more edges. The engine always runs the model as it is.

A peer's process and the engine cannot alternate run by run, so the engine runs as often before as after each peer, and
both are medians. The ratio is of the medians; in brackets the least that it could be (the peer's fastest run by the
engine's slowest) and the most. On a machine that others use, trust the ratio of the fastest runs before that of the
medians. Deviation is the largest difference of a score from the engine's by the largest score, with the key-value heads
of a group added up. Memory is measured as in `benchmarks.attribution`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from benchmarks.attribution import CASES, Case, engine, in_fresh_process, machine, peak_memory, plain_model, table
from benchmarks.attribution import seconds as time_of
from circuit.engine.dataset import PromptDataLoader, PromptDataset
from circuit.engine.mask_gradient import mask_gradient_prune_scores
from circuit.engine.model import PatchableModel, PruneScores

ROOT = Path(__file__).resolve().parent.parent
ALIKE = 1e-3
"""How far a peer's logits may be from the engine's, by the largest, to be called the same model's."""


@dataclass(frozen=True)
class Peer:
    """A package, or a method, and what pip installs for it beside torch. `tries_shared`: it knows what it refuses."""

    title: str
    requirements: tuple[str, ...]
    tries_shared: bool = False


# TransformerLens 2 wants NumPy 1, which later releases of pyarrow do not import with.
OLD_TRANSFORMERLENS = ("transformer-lens==2.16.1", "transformers==4.57.6", "pyarrow==21.0.0")
PEERS = {
    "autocircuit": Peer("AutoCircuit 1.0.1", ("auto-circuit==1.0.1", *OLD_TRANSFORMERLENS)),
    "eap-ig": Peer("EAP-IG's method (not its package)", OLD_TRANSFORMERLENS),
    "transformerlens": Peer("TransformerLens 4.3.0 attribution_patch", ("transformer-lens==4.3.0",), tries_shared=True),
}


class PeerError(Exception):
    """A peer that could not be installed, or did not finish; the sentence says why."""


# --- environments ----------------------------------------------------------------------------------------------------


def environment(name: str, folder: Path) -> Path:
    """The peer's Python, made if it is not there yet."""
    requirements = ["torch==2.13.0", "safetensors", "psutil", *PEERS[name].requirements]
    home = folder / name
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = home / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != requirements:
        print(f"Installing {PEERS[name].title} into {home}", file=sys.stderr)
        venv.create(home, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            raise PeerError(f"could not be installed: {last_line(installed.stderr)}")
        done.write_text(json.dumps(requirements))
    return python


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing was said"])[-1]


# --- inputs ----------------------------------------------------------------------------------------------------------


@dataclass
class Inputs:
    """A case's model and prompts, here and in files. `separate` is the model whose heads share no keys and values."""

    model: PatchableModel
    prompts: PromptDataset
    folder: Path
    separate: Path
    prompts_file: Path


def write_inputs(case: Case, folder: Path) -> Inputs:
    model = case.load("cpu", "float32")
    prompts = case.prompts(model.d_vocab)
    batch = prompts.batch(range(len(prompts)))
    tokens = {
        "clean": batch.clean,
        "corrupt": batch.corrupt,
        "answers": torch.stack(prompts.answers),
        "wrong_answers": torch.stack(prompts.wrong_answers),
    }
    inputs = Inputs(model, prompts, folder / "model", folder / "model", folder / "prompts.safetensors")
    save_file(tokens, inputs.prompts_file)
    plain = plain_model(model)
    plain.save_pretrained(inputs.folder)
    model.tokenizer.save_pretrained(inputs.folder)
    if model.n_kv_heads < model.n_heads:
        inputs.separate = folder / "separate"
        with_separate_heads(plain).save_pretrained(inputs.separate)
        model.tokenizer.save_pretrained(inputs.separate)
    return inputs


def with_separate_heads(plain: Any) -> Any:
    """A copy of a Llama model in which every query head has a key and a value head of its own."""
    n_heads, n_kv_heads = plain.config.num_attention_heads, plain.config.num_key_value_heads
    config = type(plain.config).from_dict(plain.config.to_dict() | {"num_key_value_heads": n_heads})
    weights = plain.state_dict()
    for name, weight in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.unflatten(0, (n_kv_heads, -1))
            weights[name] = heads.repeat_interleave(n_heads // n_kv_heads, 0).flatten(0, 1)
    separate = LlamaForCausalLM(config)
    separate.load_state_dict(weights)
    return separate


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One peer on one case: what was measured, or why nothing was."""

    case: Case
    peer: str
    keys_and_values: str
    reason: str = ""
    peer_seconds: list[float] | None = None
    engine_seconds: list[float] | None = None
    warm: bool = True
    peer_bytes: int = 0
    engine_bytes: int = 0
    deviation: float = 0.0

    HEADER = (
        "case", "peer", "keys and values", "peer (runs)", "engine (runs)", "ratio (least - most)", "of fastest runs",
        "peer's memory", "engine's memory", "deviation",
    )  # fmt: skip

    def cells(self) -> list[str]:
        start = [str(self.case), self.peer, self.keys_and_values]
        if self.peer_seconds is None or self.engine_seconds is None:
            return [*start, textwrap.shorten(self.reason, 160, placeholder=" ..."), *["-"] * (len(self.HEADER) - 4)]
        peer, ours = self.peer_seconds, self.engine_seconds
        ratio = statistics.median(peer) / statistics.median(ours)
        return [
            *start,
            f"{statistics.median(peer):.2f} s ({len(peer)}{'' if self.warm else ', cold'})",
            f"{statistics.median(ours):.3f} s ({len(ours)})",
            f"{ratio:.1f} ({min(peer) / max(ours):.1f} - {max(peer) / min(ours):.1f})",
            f"{min(peer) / min(ours):.1f}",
            f"{self.peer_bytes / 1e6:.0f} MB",
            f"{self.engine_bytes / 1e6:.0f} MB",
            f"{self.deviation:.1e}",
        ]


@dataclass(frozen=True)
class Plan:
    """How often each runs, and how many seconds a peer may take: its runs, and its whole process."""

    repeats: int
    peer_repeats: int
    budget: float
    limit: float


def measure(case: Case, pythons: dict[str, Path | PeerError], plan: Plan) -> list[Row]:
    """A row for each peer, and one more for each that refuses the model as it is."""
    rows = []
    engine_bytes = in_fresh_process(peak_memory, case, "engine", "EAP", "cpu", "float32")
    with tempfile.TemporaryDirectory() as name:
        inputs = write_inputs(case, Path(name))
        shared = inputs.model.n_kv_heads < inputs.model.n_heads
        for peer, python in pythons.items():
            title = PEERS[peer].title
            if isinstance(python, PeerError):
                rows.append(Row(case, title, "", str(python)))
                continue
            attempts = [("repeated for each head" if shared else "one a head", inputs.separate)]
            if shared and PEERS[peer].tries_shared:
                attempts.insert(0, ("shared", inputs.folder))
            for label, folder in attempts:
                row = Row(case, title, label, engine_bytes=engine_bytes)
                try:
                    compare(row, peer, python, folder, inputs, plan)
                except PeerError as error:
                    row.reason = str(error)
                rows.append(row)
                print("  ".join(row.cells()), file=sys.stderr)
    return rows


def compare(row: Row, peer: str, python: Path, folder: Path, inputs: Inputs, plan: Plan) -> None:
    """Fill in the row: engine, peer, engine.

    Raises:
        PeerError: The peer refused, failed, or computes another model.
    """
    model, prompts = inputs.model, inputs.prompts
    engine(model, prompts, "EAP")  # warms up
    before = [time_of(engine, model, prompts, "EAP") for _ in range(plan.repeats)]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        report = run_worker(python, peer, folder, inputs.prompts_file, out, plan)
        logits = load_file(out / "logits.safetensors")["logits"]
        theirs = load_file(out / "scores.safetensors")
    after = [time_of(engine, model, prompts, "EAP") for _ in range(plan.repeats)]

    batch = prompts.batch(range(len(prompts)))
    with torch.no_grad():
        ours = model.logits(batch.clean, batch.last)
    if (ours - logits).abs().max() > ALIKE * ours.abs().max():
        raise PeerError("computes other logits from these weights: not measured")
    loader = PromptDataLoader(prompts, batch_size=len(prompts))
    row.deviation = deviation(mask_gradient_prune_scores(model, loader, mask_val=0.0), theirs)
    row.peer_seconds, row.engine_seconds = report["seconds"], before + after
    row.warm, row.peer_bytes = report["warm"], report["bytes"]


def run_worker(python: Path, peer: str, folder: Path, prompts: Path, out: Path, plan: Plan) -> dict[str, Any]:
    """What the peer's process reports; its scores and logits are in `out`."""
    threads = str(torch.get_num_threads())
    command = [str(python), "-m", "benchmarks.peer_worker", peer, str(folder), str(prompts), str(out)]
    command += ["--threads", threads, "--repeats", str(plan.peer_repeats), "--budget", str(plan.budget)]
    quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": threads}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, check=False, timeout=plan.limit
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not done after {plan.limit:.0f} s") from error
    report = out / "report.json"
    if not report.exists():
        raise PeerError(f"ended with status {done.returncode}: {last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(report.read_text())
    if "reason" in found:
        raise PeerError(found["reason"])
    return found


def deviation(ours: PruneScores, theirs: PruneScores) -> float:
    """The largest difference of two sets of scores, by the largest of ours."""
    if ours.keys() != theirs.keys():
        raise PeerError(f"scores {len(theirs)} modules, and the engine {len(ours)}")
    worst = 0.0
    for name, score in ours.items():
        n_rows = score.shape[0]
        grouped = theirs[name] if score.ndim == 1 else theirs[name].unflatten(0, (n_rows, -1)).sum(1)
        worst = max(worst, float((score - grouped).abs().max()))
    return worst / max(float(score.abs().max()) for score in ours.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=["smollm2", "gpt2"])
    parser.add_argument("--peer", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="runs of the engine before each peer, and after it")
    parser.add_argument("--peer-repeats", type=int, default=3, help="runs of each peer, as far as --budget goes")
    parser.add_argument("--budget", type=float, default=600, help="seconds of runs that each peer may take")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a peer's process is stopped")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--environments", type=Path, help="folder that keeps the peers' virtual environments")
    parser.add_argument("--markdown", action="store_true", help="print rows for RESULTS.md")
    arguments = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        environments = (arguments.environments or Path(temporary)).absolute()
        plan = Plan(arguments.repeats, arguments.peer_repeats, arguments.budget, arguments.limit)
        pythons: dict[str, Path | PeerError] = {}
        for name in arguments.peer:
            try:
                pythons[name] = environment(name, environments)
            except PeerError as error:
                pythons[name] = error
        load = [os.getloadavg()[0]]
        rows: list[Row] = []
        for name in arguments.case:
            rows += measure(CASES[name], pythons, plan)
            load.append(os.getloadavg()[0])
    print(f"{machine('cpu', 'float32')}; load {min(load):.1f} to {max(load):.1f}.\n")
    print(table(Row.HEADER, [row.cells() for row in rows], arguments.markdown))


if __name__ == "__main__":
    main()
