"""One peer's edge attribution patching, inside the peer's own virtual environment: `benchmarks.peers` starts it.

    python -m benchmarks.peer_worker autocircuit MODEL PROMPTS OUT --threads 2 --repeats 3 --budget 300

MODEL is a folder in Hugging Face format, PROMPTS a safetensors file of token ids: clean, corrupt, answers and
wrong_answers. What comes out, in the folder OUT:

    report.json           seconds of each run, peak memory of the first, versions; or the reason why there are none
    scores.safetensors    scores named and shaped as AutoCircuit's, of the loss that Edgescope uses (minus the answer
                          difference), averaged over prompts
    logits.safetensors    the peer's model's last logits on the clean prompts, so that others can tell it is the same

Loading and making hooks ready are not timed. The first run warms up, and is the one whose memory is watched; its time
counts only where the budget has none left for a second. Nothing of Edgescope's engine is imported, nor could be: its
dependencies are not there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.resident_set import ResidentSet

Scores = dict[str, Tensor]


class Ready(NamedTuple):
    """A peer that has loaded its model: what is timed, how to read what it returned, and its logits of prompts."""

    run: Callable[[], Any]
    scores: Callable[[Any], Scores]
    logits: Callable[[Tensor], Tensor]


def answer_difference(logits: Tensor, answers: Tensor, wrong_answers: Tensor) -> Tensor:
    """Right minus wrong, at the last position, averaged over the batch."""
    last = logits[:, -1]
    return (last.gather(-1, answers).mean(-1) - last.gather(-1, wrong_answers).mean(-1)).mean()


def hooked_transformer(folder: Path, n_tokens: int) -> Any:
    """TransformerLens's HookedTransformer with the folder's weights, no weight folded, and the hooks per head on.

    Its config is put together here, because TransformerLens's own asks the hub by the model's name.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights

    plain = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    shared: dict[str, Any] = {
        "n_ctx": n_tokens,  # its masks grow with the square of it
        "d_vocab": config["vocab_size"],
        "use_attn_result": True,
        "use_split_qkv_input": True,
        "use_hook_mlp_in": True,
        "device": "cpu",
        "init_weights": False,
    }
    if config["model_type"] == "gpt2":
        cfg = HookedTransformerConfig(
            n_layers=config["n_layer"],
            n_heads=config["n_head"],
            d_model=config["n_embd"],
            d_head=config["n_embd"] // config["n_head"],
            d_mlp=4 * config["n_embd"],
            act_fn=config["activation_function"],
            eps=config["layer_norm_epsilon"],
            normalization_type="LN",
            **shared,
        )
        weights = convert_gpt2_weights(plain, cfg)
        weights["pos_embed.W_pos"] = weights["pos_embed.W_pos"][:n_tokens]
    else:
        n_heads, n_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        d_head = config.get("head_dim") or config["hidden_size"] // n_heads
        rope = config.get("rope_parameters") or config  # where it stands depends on the transformers that wrote it
        cfg = HookedTransformerConfig(
            n_layers=config["num_hidden_layers"],
            n_heads=n_heads,
            n_key_value_heads=None if n_kv_heads == n_heads else n_kv_heads,
            d_model=config["hidden_size"],
            d_head=d_head,
            d_mlp=config["intermediate_size"],
            act_fn=config["hidden_act"],
            eps=config["rms_norm_eps"],
            normalization_type="RMS",
            final_rms=True,
            gated_mlp=True,
            positional_embedding_type="rotary",
            rotary_adjacent_pairs=False,
            rotary_dim=d_head,
            rotary_base=rope["rope_theta"],
            **shared,
        )
        weights = convert_llama_weights(plain, cfg)
    model = HookedTransformer(cfg)
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def autocircuit(folder: Path, prompts: dict[str, Tensor]) -> Ready:
    """AutoCircuit's `mask_gradient_prune_scores` of logits at mask value 0: its fast EAP, by its own account."""
    from auto_circuit.data import PromptDataLoader, PromptDataset
    from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores
    from auto_circuit.utils.graph_utils import patchable_model

    n_prompts, n_tokens = prompts["clean"].shape
    hooked = hooked_transformer(folder, n_tokens).requires_grad_(False)  # as its `load_tl_model` does
    model = patchable_model(hooked, factorized=True, slice_output="last_seq", separate_qkv=True)
    dataset = PromptDataset(
        prompts["clean"], prompts["corrupt"], list(prompts["answers"]), list(prompts["wrong_answers"])
    )
    loader = PromptDataLoader(dataset, seq_len=None, diverge_idx=0, batch_size=n_prompts, shuffle=False)

    def run() -> Scores:
        return mask_gradient_prune_scores(model, loader, None, "logit", "avg_diff", mask_val=0.0)

    return Ready(run, lambda scores: scores, hooked)


def eap_ig(folder: Path, prompts: dict[str, Tensor]) -> Ready:
    """EAP as Hanna et al. (2024, https://arxiv.org/abs/2403.17806) publish it with EAP-IG; the method, not the package.

    On a HookedTransformer with every head's input and output split: hooks add the corrupt activations of all sources
    into one tensor [batch, pos, sources, d_model] and take the clean ones off; backward hooks contract each
    destination's gradient with it. There are three forward passes, for their metric is handed the clean logits too, and
    the backward pass goes to the weights as well. Left out: tokenizing, and the attention mask that these prompts
    of one length do not need.
    """
    from einops import einsum

    clean, corrupt = prompts["clean"], prompts["corrupt"]
    model = hooked_transformer(folder, clean.shape[1])
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    n_sources = 1 + n_layers * (n_heads + 1)

    outputs: list[tuple[str, int | slice]] = [("hook_embed", 0)]
    inputs: list[tuple[str, int]] = []  # and how many sources each reads
    for layer in range(n_layers):
        before = 1 + layer * (n_heads + 1)
        mlp = before + n_heads
        outputs += [
            (f"blocks.{layer}.attn.hook_result", slice(before, mlp)),
            (f"blocks.{layer}.hook_mlp_out", mlp),
        ]
        inputs += [(f"blocks.{layer}.hook_{letter}_input", before) for letter in "qkv"]
        inputs.append((f"blocks.{layer}.hook_mlp_in", mlp))
    inputs.append((f"blocks.{n_layers - 1}.hook_resid_post", n_sources))

    def run() -> Scores:
        model.zero_grad()
        difference = torch.zeros(*clean.shape, n_sources, model.cfg.d_model)
        scores: Scores = {}

        def accumulate(index: int | slice, sign: int) -> Callable[..., None]:
            def hook(activations: Tensor, hook: object) -> None:
                difference[:, :, index] += sign * activations.detach()

            return hook

        def contract(name: str, n: int) -> Callable[..., None]:
            def hook(gradients: Tensor, hook: object) -> None:
                by_row = gradients.detach() if gradients.ndim == 4 else gradients.detach().unsqueeze(2)
                pattern = "batch pos source d, batch pos row d -> source row"
                scores[name] = einsum(difference[:, :, :n], by_row, pattern)

            return hook

        with torch.inference_mode():
            with model.hooks(fwd_hooks=[(name, accumulate(index, 1)) for name, index in outputs]):
                model(corrupt)
            model(clean)
        forward = [(name, accumulate(index, -1)) for name, index in outputs]
        backward = [(name, contract(name, n)) for name, n in inputs]
        with model.hooks(fwd_hooks=forward, bwd_hooks=backward):
            loss = -answer_difference(model(clean), prompts["answers"], prompts["wrong_answers"])
            loss.backward()
        return scores

    def as_autocircuit(scores: Scores) -> Scores:
        return {name: score.T if name.endswith("_input") else score[:, 0] for name, score in scores.items()}

    return Ready(run, as_autocircuit, model)


def transformerlens(folder: Path, prompts: dict[str, Tensor]) -> Ready:
    """TransformerLens 4's `attribution_patch` of edges.

    It takes gradients where Edgescope's corrupt prompts would be and differences towards the clean ones, so the two
    change places here, and the metric is the loss: then its numbers are the same. It keeps token positions apart; they
    are added up afterwards, which is not timed. It goes through the pairs one by one.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = TransformerBridge.boot_transformers(str(folder), hf_model=plain, tokenizer=tokenizer, device="cpu").eval()
    config = EdgeAttributionConfig(granularity="edge")

    def run() -> Any:
        calls = count()

        def loss(logits: Tensor) -> Tensor:
            row = next(calls) // 2  # asked twice a pair, and not told which pair it is
            return -answer_difference(logits, prompts["answers"][row, None], prompts["wrong_answers"][row, None])

        return attribution_patch(model, prompts["corrupt"], prompts["clean"], loss, config)

    def as_autocircuit(result: Any) -> Scores:
        n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
        index_in_layer = {"embed": 0, "attn_head_out": 1, "mlp_out": 1 + n_heads}
        scores: Scores = {}
        for layer in range(n_layers):
            before = 1 + layer * (n_heads + 1)
            scores |= {f"blocks.{layer}.hook_{letter}_input": torch.zeros(n_heads, before) for letter in "qkv"}
            scores[f"blocks.{layer}.hook_mlp_in"] = torch.zeros(1, before + n_heads)
        scores[f"blocks.{n_layers - 1}.hook_resid_post"] = torch.zeros(1, 1 + n_layers * (n_heads + 1))
        arrays = {name: score.numpy() for name, score in scores.items()}
        for (writer, reader), value in result.edge_scores.items():
            name = "resid_post" if reader.kind == "logits" else reader.kind
            source = (writer.layer or 0) * (n_heads + 1) + index_in_layer[writer.kind] + (writer.head or 0)
            arrays[f"blocks.{reader.layer}.hook_{name}"][reader.head or 0, source] += value
        return {name: score if name.endswith("_input") else score[0] for name, score in scores.items()}

    return Ready(run, as_autocircuit, model)


PEERS = {"autocircuit": autocircuit, "eap-ig": eap_ig, "transformerlens": transformerlens}


def measure(peer: str, folder: Path, prompts: dict[str, Tensor], repeats: int, budget: float) -> dict[str, Any]:
    """Seconds of each run and bytes at the first one's peak, with scores and logits."""
    ready = PEERS[peer](folder, prompts)
    with torch.no_grad():
        logits = ready.logits(prompts["clean"])[:, -1].contiguous()
    seconds: list[float] = []
    result: Any = None

    def run() -> None:
        nonlocal result
        result = None
        start = time.perf_counter()
        result = ready.run()
        seconds.append(time.perf_counter() - start)

    with ResidentSet() as resident:
        run()
    while len(seconds) <= repeats and sum(seconds) + max(seconds) < budget:
        run()
    warm = len(seconds) > 1
    return {
        "seconds": seconds[1:] if warm else seconds,
        "warm": warm,
        "bytes": resident.growth,
        "scores": {name: score.detach().float().contiguous() for name, score in ready.scores(result).items()},
        "logits": logits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="at most this many timed runs")
    parser.add_argument("--budget", type=float, default=300, help="seconds of runs: none is begun that would exceed it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report: dict[str, Any] = {
        "versions": {name: version(name) for name in ("torch", "transformers", "transformer-lens")}
    }
    try:
        prompts = load_file(arguments.prompts)
        report |= measure(arguments.peer, arguments.model, prompts, arguments.repeats, arguments.budget)
        save_file(report.pop("scores"), arguments.out / "scores.safetensors")
        save_file({"logits": report.pop("logits")}, arguments.out / "logits.safetensors")
    except Exception as error:  # whatever a peer raises is its answer, and the table's
        report["reason"] = f"{type(error).__name__}: {error}"
    (arguments.out / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
