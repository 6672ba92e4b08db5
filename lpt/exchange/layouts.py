"""Weights of language models in Hugging Face's layouts, GPT-2's and Llama's, under the names of lpt's GPT.

A layout is a table of names. A state dict holds no settings: what its shapes do not tell (heads, epsilon, the angles'
base) is read in the config.json beside it, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models import GPT
from ..models.gpt import BASE, EPSILON

State = Mapping[str, Tensor]
NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Layout:
    """How one family of models names and lays its weights.

    Attributes:
        name: of the family.
        mark: the end of a name that only this layout has.
        parts: {a name of theirs without its end, .weight or .bias: ours}, with # for a block's number and * for the
            end; several of ours are what theirs is cut into.
        fixed: options of `lpt.models.GPT` that the family has.
        heads, activation: the keys of config.json for the number of heads and for the activation.
        mlps: {an activation: the option `mlp` that it is}.
        known: what config.json must say, where it says it, by key.
        turned: their parts whose matrices are (in, out).
        masks: their names that are no weights.
    """

    name: str
    mark: str
    parts: Mapping[str, str]
    fixed: Mapping[str, Any]
    heads: str
    activation: str
    mlps: Mapping[str, str]
    known: Mapping[str, Any]
    turned: frozenset[str] = field(default=frozenset())
    masks: frozenset[str] = field(default=frozenset())

    def renamed(self, theirs: State) -> tuple[dict[str, Tensor], list[str]]:
        """What theirs are under our names, as ours lie; and the names for which the table has no place."""
        prefix = next(name for name in theirs if name.endswith(self.mark)).removesuffix(self.mark)
        found: dict[str, Tensor] = {}
        odd = []
        for name, value in theirs.items():
            own = name.removeprefix(prefix)
            number = NUMBER.search(own)
            general = NUMBER.sub(".#.", own, count=1)
            part, _, end = general.rpartition(".")
            if general in self.masks:
                continue
            if part not in self.parts or end not in ("weight", "bias") or not value.ndim:
                odd.append(name)
                continue
            names = self.parts[part].replace("#", number[1] if number else "#").replace("*", end).split()
            lies = value.T if part in self.turned and value.ndim == 2 else value
            found |= dict(zip(names, lies.tensor_split(len(names)), strict=True))
        return found, odd

    def settings(self, ours: State, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `lpt.models.GPT` that the weights are of, as far as they and config.json tell."""
        told: dict[str, Any] = {**self.fixed, "layers": 1 + max(map(int, NUMBER.findall(" ".join(ours))), default=-1)}
        places = {"vocabulary": ("tokens.weight", 0), "width": ("tokens.weight", -1), "context": ("positions", 0)}
        for option, (name, dim) in {**places, "feedforward": ("blocks.0.mlp.up.weight", 0)}.items():
            if name in ours:
                told[option] = ours[name].shape[dim]
        told["bias"] = "blocks.0.mlp.down.bias" in ours
        output, embedding = ours.get("output.weight"), ours.get("tokens.weight")
        if output is not None and embedding is not None and not torch.equal(output, embedding):
            told["tied"] = False
        if self.heads in config:
            told["heads"] = config[self.heads]
        if self.activation in config:
            told["mlp"] = self.mlps[config[self.activation]]
        return told

    def unlike(self, config: Mapping[str, Any]) -> list[str]:
        """What config.json says that lpt's GPT cannot be."""
        act, known = self.activation, [*self.mlps]
        odd = [f"{act}={config[act]!r}"] if act in config and config[act] not in known else []
        return odd + [
            f"{key}={config[key]!r} and not {value!r}" for key, value in self.known.items()
            if config.get(key, value) != value
        ]  # fmt: skip


GPT2 = Layout(
    name="GPT-2",
    mark="h.0.attn.c_attn.weight",
    parts={
        "wte": "tokens.*", "wpe": "positions", "ln_f": "norm.*", "lm_head": "output.*",
        "h.#.ln_1": "blocks.#.norm1.*", "h.#.ln_2": "blocks.#.norm2.*",
        "h.#.attn.c_attn": "blocks.#.attention.query.* blocks.#.attention.key.* blocks.#.attention.value.*",
        "h.#.attn.c_proj": "blocks.#.attention.output.*",
        "h.#.mlp.c_fc": "blocks.#.mlp.up.*", "h.#.mlp.c_proj": "blocks.#.mlp.down.*",
    },
    fixed={"norm": "layer", "positions": "learned", "mlp": "gelu_tanh"},
    heads="n_head",
    activation="activation_function",
    mlps={"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"},
    known={
        "model_type": "gpt2", "layer_norm_epsilon": EPSILON, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    },
    turned=frozenset({"h.#.attn.c_attn", "h.#.attn.c_proj", "h.#.mlp.c_fc", "h.#.mlp.c_proj"}),
    masks=frozenset({"h.#.attn.bias", "h.#.attn.masked_bias"}),
)  # fmt: skip

LLAMA = Layout(
    name="Llama",
    mark="layers.0.self_attn.q_proj.weight",
    parts={
        "embed_tokens": "tokens.*", "norm": "norm.*", "lm_head": "output.*",
        "layers.#.input_layernorm": "blocks.#.norm1.*", "layers.#.post_attention_layernorm": "blocks.#.norm2.*",
        "layers.#.self_attn.q_proj": "blocks.#.attention.query.*",
        "layers.#.self_attn.k_proj": "blocks.#.attention.key.*",
        "layers.#.self_attn.v_proj": "blocks.#.attention.value.*",
        "layers.#.self_attn.o_proj": "blocks.#.attention.output.*",
        "layers.#.mlp.gate_proj": "blocks.#.mlp.gate.*", "layers.#.mlp.up_proj": "blocks.#.mlp.up.*",
        "layers.#.mlp.down_proj": "blocks.#.mlp.down.*",
    },
    fixed={"norm": "rms", "positions": "rotary", "mlp": "swiglu"},
    heads="num_attention_heads",
    activation="hidden_act",
    mlps={"silu": "swiglu", "swish": "swiglu"},
    known={
        "model_type": "llama", "rms_norm_eps": EPSILON, "rope_theta": BASE, "rope_scaling": None,
        "rope_type": "default", "partial_rotary_factor": 1.0,
    },
    masks=frozenset({"layers.#.self_attn.rotary_emb.inv_freq"}),
)  # fmt: skip


def translated(model: nn.Module, theirs: State, config: Callable[[], Mapping[str, Any]], file: Any) -> State | None:
    """A state dict in one of these layouts as one of `model`; None if it is in none.

    Args:
        model: what is to take it.
        theirs: any state dict.
        config: gives what config.json beside it says, asked for only where it matters.
        file: its name, for messages.

    Raises:
        UserError: it does not fit the model, or lpt's GPT cannot be what it is of.
    """
    layout = next((own for own in (GPT2, LLAMA) if any(name.endswith(own.mark) for name in theirs)), None)
    if layout is None:
        return None
    ours, odd = layout.renamed(theirs)
    said = dict(config())
    said |= said.get("rope_parameters") or {}
    what = f"{file} holds a {layout.name} in Hugging Face's layout"
    if wrong := [*sorted(odd), *layout.unlike(said)]:
        some = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise UserError(f"{what} with what lpt's GPT does not have ({some}): give weights of a plain {layout.name}")
    wanted = layout.settings(ours, said)
    have = model.settings if isinstance(model, GPT) else {}
    if differ := {option: value for option, value in wanted.items() if have.get(option) != value}:
        tokens = differ.pop("vocabulary", None)
        needs = [f"data of {tokens} tokens"] * (tokens is not None)
        needs += ["model=gpt"] * (not have) + [f"model.{option}={value}" for option, value in differ.items()]
        raise UserError(f"{what}, for which this model is another one: give {' '.join(needs)}")
    tied = {"output.weight": ours["tokens.weight"]} if "tokens.weight" in ours else {}
    return {**tied, **ours}
