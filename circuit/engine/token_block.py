"""Some prompts and positions of a batch, as one axis of tokens.

TokenBlock    the prompts and positions of a block, and where they lie in the batch
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TokenBlock:
    """Prompts and positions of a batch. `outer` and `inner` are the two axes in the order in which tokens are laid out.

    A sum over one of them that keeps the other apart is one matrix product per entry of the outer axis, without a copy;
    a sum over both is one product.
    """

    prompts: range
    positions: range
    positions_first: bool = False

    @classmethod
    def whole(cls, n_prompts: int, n_positions: int, positions_first: bool = False) -> TokenBlock:
        return cls(range(n_prompts), range(n_positions), positions_first)

    def split(self, n_tokens: int) -> list[TokenBlock]:
        """The same tokens in blocks of at most `n_tokens`, about equal: all prompts and few positions, as long as
        one position of all prompts fits."""
        n_positions = _even(len(self.positions), n_tokens // len(self.prompts))
        n_prompts = _even(len(self.prompts), n_tokens // n_positions)
        return [
            TokenBlock(
                self.prompts[i : i + n_prompts],
                self.positions[j : j + n_positions],
                self.positions_first,
            )
            for i in range(0, len(self.prompts), n_prompts)
            for j in range(0, len(self.positions), n_positions)
        ]

    @property
    def outer(self) -> range:
        return self.positions if self.positions_first else self.prompts

    @property
    def shape(self) -> tuple[int, int]:
        inner = self.prompts if self.positions_first else self.positions
        return len(self.outer), len(inner)

    def __len__(self) -> int:
        return len(self.prompts) * len(self.positions)

    def of(self, x: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "outer inner *rest"]:
        """This block of an activation, as a view. An axis of length 1 stands for all, and stays."""
        for axis, part in enumerate((self.prompts, self.positions)):
            if len(part) != x.shape[axis] and (x.shape[axis] > 1 or not part):
                x = x.narrow(axis, part.start, len(part))
        return x.transpose(0, 1) if self.positions_first else x


def _even(n: int, most: int) -> int:
    """The size of parts of at most `most` (at least 1) into which n can be cut so that the last is hardly smaller."""
    n_parts = -(-n // max(most, 1))
    return -(-n // n_parts) if n_parts else 1
