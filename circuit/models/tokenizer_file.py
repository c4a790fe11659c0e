"""A folder's tokenizer as its files have it.

    read_tokenizer    a folder -> a Hugging Face tokenizer that cuts texts as its tokenizer.json says

`AutoTokenizer` makes the tokenizer of some model types and class names anew from the vocabulary, with rules of its own:
every Qwen2 folder is cut by Qwen2's rule, whatever its tokenizer.json says, and a BOS token that only the file's
template puts is lost. Here the file counts, and is held against what is returned.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuit.common.errors import ModelError
from circuit.models.tokenizer import cuts, visible

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TELLING = (
    "When Mary and John went to the store, John gave a drink to",
    "1 12 123 1234 12345, from 1732 to 17: 3.14 + 2,000 = 2003.14",
    "I'm sure they'll say it's what we'd've done; DON'T YOU'RE",
    "one\ntwo\r\nthree\n\n\nfour  five   six\n  seven\teight \n nine ",
    'f(x) = "a" -> [b]; (c, d)... --- !!! ?? #tag @you $5 50% a_b/c\\d',
    "naïve café Straße Ελλάδα Москва שלום مرحبا नमस्ते 漢字かな 한국어 🔬 ﬁ ½",
)
"""Texts that rules of tokenizers cut differently."""
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


def read_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a folder in Hugging Face format.

    Its tokenizer.json says how texts are cut, and what is put before them; its tokenizer_config.json names special
    tokens. Folders without a tokenizer.json are read by `AutoTokenizer`.

    Raises:
        ModelError: When the tokenizer that was read cuts texts differently from the file.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    wanted = Tokenizer.from_file(str(file))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    named = {key for name in ("tokenizer_config", "special_tokens_map") for key in _json(Path(folder) / f"{name}.json")}
    if not {"bos_token", "eos_token"} <= named:  # GPT-2's folder names none: they are those of its class
        of_class = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        for name in _NAMES:
            token = getattr(of_class, name)
            if name not in named and token is not None and wanted.token_to_id(token) is not None:
                setattr(tokenizer, name, token)
    _follow(wanted, tokenizer)
    return tokenizer


def _follow(wanted: Tokenizer, tokenizer: Any) -> None:
    """Let a tokenizer cut texts as the one of the file, and put before them what that puts."""
    backend = tokenizer.backend_tokenizer
    wanted.encode_special_tokens = backend.encode_special_tokens
    for either in (wanted, backend):
        either.no_truncation()
        either.no_padding()
    if _difference(wanted, backend) is not None:
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            setattr(backend, part, getattr(wanted, part))
    backend.post_processor = wanted.post_processor
    if (text := _difference(wanted, backend)) is not None:
        raise ModelError(
            f"The tokenizer cuts '{visible(text)}' otherwise than this model's tokenizer.json says, so its tokens are "
            "not the model's own. Save the tokenizer again with save_pretrained of a current transformers."
        )


def _difference(wanted: Tokenizer, found: Tokenizer) -> str | None:
    """The first of the telling texts that two tokenizers cut differently, or that comes back differently."""
    special = [token.content for token in wanted.get_added_tokens_decoder().values()][:50]
    for text in (*TELLING, *(f"a{token} b {token}" for token in special)):
        if not cuts(wanted, text) and not cuts(found, text):
            continue
        if not cuts(wanted, text) or not cuts(found, text):
            return text
        ids = wanted.encode(text, add_special_tokens=False).ids
        if found.encode(text, add_special_tokens=False).ids != ids:
            return text
        if found.decode(ids, skip_special_tokens=False) != wanted.decode(ids, skip_special_tokens=False):
            return text
    return None


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
