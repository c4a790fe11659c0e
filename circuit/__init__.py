"""Edgescope: scores for every edge of a transformer, and the circuits cut from them.

    import circuit

    model = circuit.load_model("smollm2-135m", device="cpu")
    loader = circuit.PromptDataLoader(circuit.PromptDataset(clean, corrupt, answers, wrong_answers), batch_size=4)
    scores = circuit.mask_gradient_prune_scores(model, loader, None, "logit", "avg_diff", mask_val=0.0)
    outputs = circuit.run_circuits(model, loader, [0, 20, 500], scores, circuit.PatchType.TREE_PATCH)

`__init__.pyi` lists the names. Each is loaded when it is first used, so importing the package does not import torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
