"""Weights in Hugging Face's layouts: the GPT computes what their equations say; what does not fit is told at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lpt.errors import UserError
from lpt.models import GPT
from lpt.runs import saved

WIDTH, HEADS, LAYERS, WORDS, CONTEXT, INSIDE = 8, 2, 3, 11, 6, 20
SIZES = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT, "feedforward": INSIDE}
OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {**SIZES, "mlp": "gelu_tanh", "bias": True},
    "llama": {**SIZES, "norm": "rms", "positions": "rotary", "mlp": "swiglu", "tied": False},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_head": HEADS, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    "llama": {
        "model_type": "llama", "num_attention_heads": HEADS, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    },
}  # fmt: skip
TOKENS = torch.randint(WORDS, (4, CONTEXT), generator=torch.Generator().manual_seed(1))


def theirs(kind: str) -> dict[str, Tensor]:
    """A state dict as their programs write it, written here from their layout alone."""
    some = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=some) / 2

    found: dict[str, Tensor] = {}
    if kind == "gpt2":
        found = {"transformer.wte.weight": drawn(WORDS, WIDTH), "transformer.wpe.weight": drawn(CONTEXT, WIDTH)}
        parts = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH), "mlp.c_fc": (WIDTH, INSIDE),
                 "mlp.c_proj": (INSIDE, WIDTH)}  # fmt: skip
        for n in range(LAYERS):
            for part, (rows, columns) in parts.items():  # Conv1D: x @ weight + bias
                found[f"transformer.h.{n}.{part}.weight"] = drawn(rows, columns)
                found[f"transformer.h.{n}.{part}.bias"] = drawn(columns)
            for norm in ("ln_1", "ln_2"):
                found |= {f"transformer.h.{n}.{norm}.{end}": drawn(WIDTH) for end in ("weight", "bias")}
            found[f"transformer.h.{n}.attn.bias"] = torch.ones(CONTEXT, CONTEXT).tril().view(1, 1, CONTEXT, CONTEXT)
        found |= {f"transformer.ln_f.{end}": drawn(WIDTH) for end in ("weight", "bias")}
        return found
    found = {"model.embed_tokens.weight": drawn(WORDS, WIDTH), "model.norm.weight": drawn(WIDTH)}
    found["lm_head.weight"] = drawn(WORDS, WIDTH)
    for n in range(LAYERS):
        own = {f"self_attn.{part}_proj": (WIDTH, WIDTH) for part in "qkvo"}
        own |= {"mlp.gate_proj": (INSIDE, WIDTH), "mlp.up_proj": (INSIDE, WIDTH), "mlp.down_proj": (WIDTH, INSIDE)}
        found |= {f"model.layers.{n}.{part}.weight": drawn(*shape) for part, shape in own.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        found |= {f"model.layers.{n}.{norm}.weight": drawn(WIDTH) for norm in norms}
        found[f"model.layers.{n}.self_attn.rotary_emb.inv_freq"] = torch.ones(WIDTH // HEADS // 2)
    return found


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[N, T, W] -> [N, T, W], causal."""
    q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH / HEADS)
    scores = scores.masked_fill(torch.ones(CONTEXT, CONTEXT).triu(1).bool(), -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def gpt2(p: dict[str, Tensor]) -> Tensor:
    p = {name.removeprefix("transformer."): t.double() for name, t in p.items()}
    x = p["wte.weight"][TOKENS] + p["wpe.weight"]
    for n in range(LAYERS):
        own = {name.removeprefix(f"h.{n}."): t for name, t in p.items()}
        y = F.layer_norm(x, (WIDTH,), own["ln_1.weight"], own["ln_1.bias"])
        qkv = y @ own["attn.c_attn.weight"] + own["attn.c_attn.bias"]
        x = x + attended(*qkv.split(WIDTH, 2)) @ own["attn.c_proj.weight"] + own["attn.c_proj.bias"]
        y = F.layer_norm(x, (WIDTH,), own["ln_2.weight"], own["ln_2.bias"])
        y = y @ own["mlp.c_fc.weight"] + own["mlp.c_fc.bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ own["mlp.c_proj.weight"] + own["mlp.c_proj.bias"]
    return F.layer_norm(x, (WIDTH,), p["ln_f.weight"], p["ln_f.bias"]) @ p["wte.weight"].T


def turned(x: Tensor) -> Tensor:
    """As their rotate_half and cos, sin of angles repeated twice have it, head by head."""
    part = WIDTH // HEADS
    speeds = 10000.0 ** (-torch.arange(0, part, 2).double() / part)
    angles = (torch.arange(CONTEXT).double()[:, None] * speeds).repeat(1, 2)
    heads = x.unflatten(2, (HEADS, part)).transpose(1, 2)
    half = torch.cat([-heads[..., part // 2 :], heads[..., : part // 2]], -1)
    return (heads * angles.cos() + half * angles.sin()).transpose(1, 2).flatten(2)


def llama(p: dict[str, Tensor]) -> Tensor:
    p = {name.removeprefix("model."): t.double() for name, t in p.items()}

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    x = p["embed_tokens.weight"][TOKENS]
    for n in range(LAYERS):
        own = {name.removeprefix(f"layers.{n}.").removesuffix(".weight"): t for name, t in p.items()}
        y = normed(x, own["input_layernorm"])
        q, k, v = (y @ own[f"self_attn.{part}_proj"].T for part in "qkv")
        x = x + attended(turned(q), turned(k), v) @ own["self_attn.o_proj"].T
        y = normed(x, own["post_attention_layernorm"])
        x = x + (F.silu(y @ own["mlp.gate_proj"].T) * (y @ own["mlp.up_proj"].T)) @ own["mlp.down_proj"].T
    return normed(x, p["norm.weight"]) @ p["lm_head.weight"].T


def written(folder: Path, state: dict[str, Tensor], config: dict[str, Any] | None) -> Path:
    file = folder / "model.safetensors"
    save_file({name: t.contiguous() for name, t in state.items()}, file)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return file


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("prefixed", [True, False])
def test_the_gpt_computes_what_their_equations_say(kind: str, prefixed: bool, tmp_path: Path) -> None:
    state = theirs(kind)
    wanted = {"gpt2": gpt2, "llama": llama}[kind](state)
    if not prefixed:
        state = {name.removeprefix("transformer.").removeprefix("model."): t for name, t in state.items()}
    model = GPT(WORDS, **OPTIONS[kind])
    saved.load(model, written(tmp_path, state, CONFIGS[kind]))
    torch.testing.assert_close(model.double()(TOKENS), wanted, rtol=1e-6, atol=1e-6)


def test_one_state_dict_in_several_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = theirs("llama")
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, tmp_path / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = GPT(WORDS, **OPTIONS["llama"])
    saved.load(model, tmp_path / "model.safetensors.index.json")
    torch.testing.assert_close(model.double()(TOKENS), llama(state), rtol=1e-6, atol=1e-6)
    assert "without a config.json" in capfd.readouterr().err


def other(state: dict[str, Tensor], **changed: Tensor | None) -> dict[str, Tensor]:
    return {name: t for name, t in {**state, **changed}.items() if t is not None}


@pytest.mark.parametrize(
    ("kind", "options", "config", "told"),
    [
        ("gpt2", {"bias": False}, {}, "give model.bias=True"),
        ("gpt2", {"mlp": "gelu"}, {}, "give model.mlp=gelu_tanh"),
        ("gpt2", {"width": 16, "layers": 2}, {}, "give model.layers=3 model.width=8"),
        ("gpt2", {"vocabulary": 12}, {}, "give data of 11 tokens"), ("gpt2", {"heads": 4}, {}, "give model.heads=2"),
        ("gpt2", {"context": 12}, {}, "model.context=6"),
        ("gpt2", {}, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ("gpt2", {}, {"activation_function": "relu"}, "activation_function='relu'"),
        ("llama", {}, {"rope_theta": 500000.0}, "rope_theta=500000.0 and not 10000.0"),
        ("llama", {}, {"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, "rope_theta=5.0"),
        ("llama", {}, {"model_type": "gemma"}, "model_type='gemma'"), ("llama", {"tied": True}, {}, "model.tied=False"),
        ("llama", {"norm": "layer", "positions": "learned"}, {}, "model.norm=rms model.positions=rotary"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed(
    kind: str, options: dict[str, Any], config: dict[str, Any], told: str, tmp_path: Path
) -> None:
    model = GPT(**{"vocabulary": WORDS, **OPTIONS[kind], **options})
    file = written(tmp_path, theirs(kind), {**CONFIGS[kind], **config})
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        saved.load(model, file)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "changed", "told"),
    [
        ("llama", {"model.layers.1.self_attn.q_norm.weight": torch.ones(4)}, "does not have (model.layers.1.self_attn"),
        ("llama", {"model.layers.1.self_attn.k_proj.weight": torch.ones(4, 8)}, "1.attention.key.weight is (4, 8)"),
        ("gpt2", {"transformer.h.2.mlp.c_fc.weight": None}, "it lacks blocks.2.mlp.up.weight"),
        ("gpt2", {"transformer.h.0.attn.c_attn.weight": torch.ones(())}, "does not have (transformer.h.0.attn.c_attn"),
        ("gpt2", {"transformer.wte.weight": None}, "it lacks"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(
    kind: str, changed: dict[str, Tensor | None], told: str, tmp_path: Path
) -> None:
    file = written(tmp_path, other(theirs(kind), **changed), CONFIGS[kind])
    with pytest.raises(UserError) as error:
        saved.load(GPT(WORDS, **OPTIONS[kind]), file)
    assert told in str(error.value)


def test_a_model_that_is_no_gpt_and_two_weights_for_one(tmp_path: Path) -> None:
    file = written(tmp_path, theirs("gpt2"), None)
    with pytest.raises(UserError, match="give data of 11 tokens model=gpt"):
        saved.load(nn.Linear(2, 2), file)
    model = GPT(WORDS, **OPTIONS["gpt2"])
    own = {name: t.clone() for name, t in model.state_dict().items()}
    save_file({**own, "output.weight": own["output.weight"] + 1}, file)
    with pytest.raises(UserError, match=r"differ, and are one weight in this one"):
        saved.load(model, file)


@pytest.mark.parametrize("odd", [{1: torch.ones(2)}, {"weight": [1, 2]}, {"state_dict": {"weight": None}}])
def test_what_is_no_state_dict_is_told(odd: dict[Any, Any], tmp_path: Path) -> None:
    torch.save(odd, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="is not of a state dict"):
        saved.load(nn.Linear(2, 2), tmp_path / "odd.pt")


def test_a_config_beside_other_weights_is_not_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text("{broken")
    saved.load(model, tmp_path / "m.safetensors")
    assert model.weight.sum() == 4
    for text in ("{broken", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json"):
            saved.load(GPT(WORDS, **OPTIONS["gpt2"]), written(tmp_path, theirs("gpt2"), None))
