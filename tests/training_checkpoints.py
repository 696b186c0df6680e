"""Small training checkpoints as frameworks write them, and what their models compute, written out."""

import pickle
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.filesystem import _StorageInfo

VOCABULARY, WIDTH, LAYERS, HEADS, KEY_VALUES = 64, 32, 3, 4, 2
EXPERTS, TOP, EXPERT_WIDTH, DENSE_WIDTH = 8, 3, 16, 48
HEAD = WIDTH // HEADS
SETTINGS = {"num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUES, "num_experts_per_tok": TOP}


def megatron(seed=0, dtype=torch.float32):
    """The weights of a small FLAME-MoE under Megatron's names: the first layer dense, a shared expert of width 2f."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, size=0.25):
        return (torch.randn(*shape, generator=generator) * size).to(dtype)

    def norm():
        return (1 + draw(WIDTH).float()).to(dtype)

    tensors = {
        "embedding.word_embeddings.weight": draw(VOCABULARY, WIDTH, size=1.0),
        "output_layer.weight": draw(VOCABULARY, WIDTH),
        "decoder.final_layernorm.weight": norm(),
    }
    for layer in range(LAYERS):
        own = f"decoder.layers.{layer}."
        tensors |= {
            f"{own}self_attention.linear_qkv.layer_norm_weight": norm(),
            f"{own}self_attention.linear_qkv.weight": draw((HEADS + 2 * KEY_VALUES) * HEAD, WIDTH),
            f"{own}self_attention.linear_proj.weight": draw(WIDTH, WIDTH),
        }
        if layer == 0:
            tensors |= {
                f"{own}mlp.linear_fc1.layer_norm_weight": norm(),
                f"{own}mlp.linear_fc1.weight": draw(2 * DENSE_WIDTH, WIDTH),
                f"{own}mlp.linear_fc2.weight": draw(WIDTH, DENSE_WIDTH),
            }
            continue
        tensors |= {
            f"{own}pre_mlp_layernorm.weight": norm(),
            f"{own}mlp.router.weight": draw(EXPERTS, WIDTH),
            f"{own}mlp.experts.experts.linear_fc1.weight": draw(EXPERTS, 2 * EXPERT_WIDTH, WIDTH),
            f"{own}mlp.experts.experts.linear_fc2.weight": draw(EXPERTS, WIDTH, EXPERT_WIDTH),
            f"{own}mlp.shared_experts.linear_fc1.weight": draw(4 * EXPERT_WIDTH, WIDTH),
            f"{own}mlp.shared_experts.linear_fc2.weight": draw(WIDTH, 2 * EXPERT_WIDTH),
        }
    return tensors


def computed(tensors, ids):
    """Logits and the routed experts of each layer, as FLAME-MoE computes them: one sequence, one head, one token at a
    time."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    x = w["embedding.word_embeddings.weight"][ids]  # [T, d]
    routed = {}
    for layer in range(LAYERS):
        own = f"decoder.layers.{layer}."
        x = x + _attention(w, own, _rms(x, w[f"{own}self_attention.linear_qkv.layer_norm_weight"]))
        if layer == 0:
            normed = _rms(x, w[f"{own}mlp.linear_fc1.layer_norm_weight"])
            x = x + _swiglu(normed, w[f"{own}mlp.linear_fc1.weight"], w[f"{own}mlp.linear_fc2.weight"])
            continue
        normed = _rms(x, w[f"{own}pre_mlp_layernorm.weight"])
        shared = [w[f"{own}mlp.shared_experts.linear_fc{i}.weight"] for i in (1, 2)]
        gates, chosen = (normed @ w[f"{own}mlp.router.weight"].T).softmax(-1).topk(TOP)
        routed[layer] = chosen
        out = _swiglu(normed, *shared)
        for token in range(len(ids)):
            for gate, expert in zip(gates[token], chosen[token].tolist(), strict=True):
                first, second = (w[f"{own}mlp.experts.experts.linear_fc{i}.weight"][expert] for i in (1, 2))
                out[token] += gate * _swiglu(normed[token], first, second)
        x = x + out
    return _rms(x, w["decoder.final_layernorm.weight"]) @ w["output_layer.weight"].T, routed


def _attention(w, own, x):
    grouped = (x @ w[f"{own}self_attention.linear_qkv.weight"].T).reshape(len(x), KEY_VALUES, -1, HEAD)
    place = torch.arange(len(x)).double()
    frequency = 10000.0 ** (-torch.arange(0, HEAD, 2).double() / HEAD)
    angle = (place[:, None] * frequency).repeat(1, 2)
    outs = []
    for head in range(HEADS):
        group = grouped[:, head // (HEADS // KEY_VALUES)]
        query, key, value = group[:, head % (HEADS // KEY_VALUES)], group[:, -2], group[:, -1]
        query, key = (
            part * angle.cos() + torch.cat([-part[:, HEAD // 2 :], part[:, : HEAD // 2]], -1) * angle.sin()
            for part in (query, key)
        )
        weights = (query @ key.T / HEAD**0.5).masked_fill(place[:, None] < place[None], -torch.inf).softmax(-1)
        outs.append(weights @ value)
    return torch.cat(outs, -1) @ w[f"{own}self_attention.linear_proj.weight"].T


def _rms(x, weight):
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def _swiglu(x, first, second):
    gate, up = (x @ first.T).chunk(2, -1)
    return (F.silu(gate) * up) @ second.T


def write(folder: Path, content) -> Path:
    """A distributed checkpoint, by torch's own writer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is one process
        dcp.save(content, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    return folder


def write_in_parts(folder: Path, tensors) -> Path:
    """A distributed checkpoint whose tensors are halved along their first axis, as two ranks write them."""
    folder.mkdir()
    files = [open(folder / f"__{rank}_0.distcp", "wb") for rank in (0, 1)]  # noqa: SIM115, PTH123
    entries, storage = {}, {}
    for name, tensor in tensors.items():
        half = len(tensor) // 2
        chunks = []
        for rank, part in enumerate((tensor[:half], tensor[half:])):
            offsets = torch.Size([rank * half, *[0] * (tensor.dim() - 1)])
            start = files[rank].tell()
            torch.save(part.clone(), files[rank])
            place = _StorageInfo(f"__{rank}_0.distcp", start, files[rank].tell() - start)
            storage[described.MetadataIndex(name, offsets, rank)] = place
            chunks.append(described.ChunkStorageMetadata(offsets, part.shape))
        properties = described.TensorProperties.create_from_tensor(tensor)
        entries[name] = described.TensorStorageMetadata(properties, tensor.shape, chunks)
    for file in files:
        file.close()
    save_metadata(folder, described.Metadata(entries, storage_data=storage))
    return folder


def load_metadata(folder: Path):
    return pickle.loads((folder / ".metadata").read_bytes())


def save_metadata(folder: Path, content) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(content))
