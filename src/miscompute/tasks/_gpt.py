"""A small language model."""

from typing import final

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .._invalid import InvalidInput
from ._width import scaled


@final
class GptBlock(nn.Module):
    """Causal self-attention, then a two-layer perceptron, each on normalised input and added to it."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.projection = nn.Linear(hidden, hidden)
        self.norm2 = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, 4 * hidden)
        self.down = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Float[Tensor, "n t hidden"]) -> Float[Tensor, "n t hidden"]:
        """Compute the block's output."""
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))  # -> (n, t, 3, heads, size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # -> (n, heads, t, size), three times
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))  # -> (n, t, hidden)
        expanded = F.gelu(self.up(self.norm2(x)), approximate="tanh")  # -> (n, t, 4 * hidden)
        added: Tensor = self.down(expanded)
        return x + added


@final
class Gpt(nn.Module):
    """A decoder-only transformer: pre-norm blocks, learned positions. See `gpt`."""

    def __init__(self, *, classes: int, context: int, layers: int, heads: int, hidden: int, tied: bool) -> None:
        super().__init__()
        self.token = nn.Embedding(classes, hidden)
        self.position = nn.Embedding(context, hidden)
        self.blocks = nn.Sequential(*(GptBlock(hidden, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes, bias=False)
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                adds_to_residual = name.endswith((".projection", ".down"))
                nn.init.normal_(module.weight, std=0.02 * ((2 * layers) ** -0.5 if adds_to_residual else 1))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: Int64[Tensor, "n t"]) -> Float[Tensor, "n t classes"]:
        """Compute, at each place of up to ``context``, the scores of the token that follows."""
        length, context = tokens.shape[1], self.position.num_embeddings
        if length > context:
            raise InvalidInput(f"tokens: a window of {length} is longer than the model's context of {context}; cut it")
        x = self.token(tokens) + self.position.weight[:length]  # -> (n, t, hidden)
        scores: Tensor = self.head(self.norm(self.blocks(x)))
        return scores


def gpt(
    *,
    classes: int = 65,
    context: int = 64,
    width: float = 1.0,
    layers: int = 4,
    heads: int = 4,
    hidden: int = 128,
    tied: bool = True,
) -> nn.Module:
    """Build a GPT-2, small enough for a processor: 4 layers of 4 heads, 128 wide, 0.81 million parameters.

    ``width`` scales ``hidden``, to a multiple of ``heads``. ``tied``: whether the output layer's weight is the tokens'
    embedding. Attention is `torch.nn.functional.scaled_dot_product_attention`.

    Source: Radford et al., "Language models are unsupervised multitask learners", 2019, section 2.3, of which
    ``gpt(classes=50257, context=1024, layers=12, heads=12, hidden=768)`` is the smallest, without its dropout; the size
    is that of A. Karpathy's nanoGPT for a processor.
    """
    (size,) = scaled(width, hidden // heads)
    scaled(width, 4 * hidden)  # the widest layer
    return Gpt(classes=classes, context=context, layers=layers, heads=heads, hidden=heads * size, tied=tied)
