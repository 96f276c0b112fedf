"""Checkpoints of the public implementation become pipelines with the same logits.

The reference is a DiT in plain torch under the public names, written for these tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purrception import PurrceptionPipeline
from purrception.experiment.saved_run import sampling_defaults
from purrception.flow import SamplingConfig
from purrception.generation.public_checkpoints import convert_public_checkpoint
from purrception.models import DIT_SIZES
from purrception.tokenizers import VQConfig, VQTokenizer
from purrception.utils.errors import InputError

SIZE, DIM, WIDTH, HEADS, CLASSES, SIDE = 23, 3, 32, 4, 5, 8


def part(**modules: nn.Module) -> nn.Module:
    made = nn.Module()
    for name, module in modules.items():
        made.add_module(name, module)
    return made


def one_dimension(places: Tensor, channels: int) -> Tensor:
    """sin, then cos, as MAE has them."""
    angles = places.double()[:, None] / 10_000 ** (torch.arange(channels // 2) / (channels / 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PublicDiT(nn.Module):
    """The network of the public implementation; ``objective`` says what goes in and comes out."""

    def __init__(self, objective: str, width: int = WIDTH, heads: int = HEADS, depth: int = 2, size: int = SIZE):
        super().__init__()
        self.heads, self.patch = heads, 2
        masked = objective == "dfm"
        self.outputs = {"purrception": size, "dfm": size + 1}.get(objective, DIM)
        tokens = SIDE // self.patch
        rows, columns = torch.meshgrid(torch.arange(tokens), torch.arange(tokens), indexing="ij")
        halves = [one_dimension(axis.flatten(), width // 2) for axis in (columns, rows)]
        self.pos_embed = nn.Parameter(torch.cat(halves, dim=1)[None].float(), requires_grad=False)
        self.x_pre_embedder = nn.Embedding(size + 1, width) if masked else None
        self.x_embedder = part(proj=nn.Conv2d(width if masked else DIM, width, self.patch, self.patch))
        self.t_embedder = part(mlp=nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width)))
        self.y_embedder = part(embedding_table=nn.Embedding(CLASSES + 1, width))
        self.blocks = nn.ModuleList(
            part(
                attn=part(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
                mlp=part(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
                adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)),
            )
            for _ in range(depth)
        )
        self.final_layer = part(
            linear=nn.Linear(width, self.patch**2 * self.outputs),
            adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)),
        )

    def attention(self, layer: Any, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = layer.qkv(x).reshape(batch, count, 3, self.heads, -1).unbind(2)
        weights = torch.einsum("bihc,bjhc->bhij", q, k).div((width // self.heads) ** 0.5).softmax(-1)
        return layer.proj(torch.einsum("bhij,bjhc->bihc", weights, v).reshape(batch, count, width))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """z ``[B, D, h, w]`` or codes ``[B, h, w]``, t in [0, 1], labels → ``[B, outputs, h, w]``."""
        if self.x_pre_embedder is not None:
            x = self.x_pre_embedder(x).permute(0, 3, 1, 2)
        x = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        angles = t[:, None] * torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(128) / 128)
        c = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], dim=1)) + self.y_embedder.embedding_table(
            y
        )

        def normed(value: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return F.layer_norm(value, value.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

        for block in self.blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(c).chunk(6, dim=1)
            x = x + gate1[:, None] * self.attention(block.attn, normed(x, shift1, scale1))
            hidden = F.gelu(block.mlp.fc1(normed(x, shift2, scale2)), approximate="tanh")
            x = x + gate2[:, None] * block.mlp.fc2(hidden)
        x = self.final_layer.linear(normed(x, *self.final_layer.adaLN_modulation(c).chunk(2, dim=1)))
        side, p = SIDE // self.patch, self.patch
        x = x.reshape(len(x), side, side, p, p, self.outputs)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), self.outputs, SIDE, SIDE)


def random_network(objective: str, **sizes: int) -> PublicDiT:
    made = PublicDiT(objective, **sizes).requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name != "pos_embed":
            nn.init.normal_(parameter, std=0.3 / (1 + parameter.shape[-1] / 64) ** 0.5)
    return made


def save(network: PublicDiT, path: Path, **others: Any) -> Path:
    """As the public implementation does; its training keeps the weights in bfloat16."""
    torch.save({"step": 7, "backbone_state_dict": network.state_dict(), "ema_state_dict": None, **others}, path)
    return path


@pytest.fixture
def tokenizer() -> VQTokenizer:
    vq = VQConfig(codebook_size=SIZE, codebook_dim=DIM, channels=(8, 8)).build(image_channels=3, image_size=16)
    nn.init.normal_(vq.quantize.embedding.weight)
    return VQTokenizer(vq)


def inputs(objective: str) -> tuple[Tensor, Tensor, Tensor]:
    labels, t = torch.tensor([0, 3, CLASSES]), torch.tensor([0.001, 0.4, 0.97])
    if objective == "dfm":
        return torch.randint(SIZE + 1, (3, SIDE, SIDE)), t, labels
    return torch.randn(3, DIM, SIDE, SIDE), t, labels


def outputs(pipeline: PurrceptionPipeline, objective: str, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Ours, as ``[B, outputs, h, w]``."""
    network = pipeline.transformer
    if objective == "dfm":
        x = network.embed_masked(x.clamp(max=SIZE - 1), x == SIZE)
    features = network(x, t, labels)
    if objective.startswith("cfm"):
        return network.head(features)
    return network.head.logits(features).permute(0, 3, 1, 2)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("objective", ["purrception", "cfm", "cfm-endpoint", "dfm"])
def test_the_same_input_gives_the_same_output(
    objective: str, half: bool, tokenizer: VQTokenizer, tmp_path: Path
) -> None:
    public = random_network(objective)
    if half:
        public = public.bfloat16()
    path = save(public, tmp_path / "imagenet_dit_last.pth")
    pipeline = convert_public_checkpoint(path, tokenizer, objective, heads=HEADS)
    pipeline.save_pretrained(tmp_path / "pipeline")
    pipeline = PurrceptionPipeline.from_pretrained(tmp_path / "pipeline")
    x, t, labels = inputs(objective)
    with torch.no_grad():
        expected = public.float()(x, t, labels)[:, : SIZE if objective == "dfm" else None]
        given = outputs(pipeline, objective, x, t, labels)
    assert expected.std() > 0.1
    torch.testing.assert_close(given, expected, atol=2e-5, rtol=0)
    assert torch.equal(pipeline.transformer.codebook, tokenizer.codebook)
    settings = sampling_defaults(tmp_path / "pipeline")
    assert settings == SamplingConfig(num_inference_steps=99, redraw=objective == "dfm")
    assert pipeline.sample([1], settings).nfe == 99
    out = pipeline(class_labels=[0, 4], num_inference_steps=3, seed=1)
    assert out.indices.shape == (2, SIDE, SIDE)
    assert out.images[0].size == (16, 16)


@pytest.mark.parametrize("leaves_out_positions", [False, True])
def test_the_moving_average_is_taken_unless_refused(
    leaves_out_positions: bool, tokenizer: VQTokenizer, tmp_path: Path
) -> None:
    now, average = random_network("purrception"), random_network("purrception")
    shadows = [p for name, p in average.named_parameters() if not leaves_out_positions or name != "pos_embed"]
    ema = {"decay": 0.9999, "num_updates": 3, "shadow_params": shadows, "collected_params": None}
    path = save(now, tmp_path / "both.pth", ema_state_dict=ema)
    taken = convert_public_checkpoint(path, tokenizer, heads=HEADS).transformer.state_dict()
    assert torch.equal(taken["backbone.blocks.1.mlp.2.weight"], average.blocks[1].mlp.fc2.weight)
    taken = convert_public_checkpoint(path, tokenizer, heads=HEADS, ema=False).transformer.state_dict()
    assert torch.equal(taken["backbone.blocks.1.mlp.2.weight"], now.blocks[1].mlp.fc2.weight)
    save(now, path, ema_state_dict=ema | {"shadow_params": shadows[:-2]})
    with pytest.raises(InputError, match=r"the moving average in .* does not fit its weights"):
        convert_public_checkpoint(path, tokenizer, heads=HEADS)


@pytest.mark.parametrize("size", ["B", "L", "XL"])
def test_published_sizes_are_recognised_and_every_tensor_accounted_for(
    size: str, tokenizer: VQTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth, width, heads = DIT_SIZES[size]
    with torch.device("meta"):
        public = PublicDiT("purrception", width, heads, depth)
        content = {"backbone_state_dict": public.state_dict()}
        monkeypatch.setattr("purrception.generation.public_checkpoints.read_weights", lambda path: content)
        monkeypatch.setattr("purrception.models.PurrceptionTransformer.load_state_dict", lambda *rest: None)
        monkeypatch.setattr("purrception.models.PurrceptionTransformer.set_codebook", lambda *rest: None)
        network = convert_public_checkpoint(tmp_path / "any.pth", tokenizer).transformer
    config = network.config
    assert (config.depth, config.width, config.heads, config.num_classes) == (depth, width, heads, CLASSES)
    ours = sum(p.numel() for p in network.parameters())
    assert ours == sum(p.numel() for name, p in public.named_parameters() if name != "pos_embed")


def test_settings_beside_the_checkpoint_are_read(tokenizer: VQTokenizer, tmp_path: Path) -> None:
    path = save(random_network("cfm-endpoint"), tmp_path / "imagenet_dit_last.pth")
    with pytest.raises(InputError, match="cfm or cfm-endpoint, which look alike: name one with --objective"):
        convert_public_checkpoint(path, tokenizer, heads=HEADS)
    with pytest.raises(InputError, match="depth 2 and width 32 are no published size"):
        convert_public_checkpoint(path, tokenizer, "cfm")
    settings = {"model_type": "cfm-endpoint", "backbone_hparams": {"num_heads": HEADS}}
    (tmp_path / "hparams.json").write_text(json.dumps(settings))
    pipeline = convert_public_checkpoint(path, tokenizer)
    assert pipeline.config.objective == "cfm-endpoint"
    assert pipeline.transformer.config.heads == HEADS
    (tmp_path / "hparams.json").write_text("{}")
    with pytest.raises(InputError, match=r"hparams\.json is not the settings .*; move it away"):
        convert_public_checkpoint(path, tokenizer)


def test_what_does_not_fit_is_refused(tokenizer: VQTokenizer, tmp_path: Path) -> None:
    path = save(random_network("purrception", size=SIZE + 1), tmp_path / "other.pth")
    with pytest.raises(InputError, match="has 23 codes of 3 dimensions: give the tokenizer"):
        convert_public_checkpoint(path, tokenizer, heads=HEADS)
    public = random_network("purrception")
    path = save(public, tmp_path / "good.pth")
    with pytest.raises(InputError, match="is of purrception by its shapes; given the objective 'cfm'"):
        convert_public_checkpoint(path, tokenizer, "cfm", heads=HEADS)
    with pytest.raises(InputError, match="did you mean 'purrception'"):
        convert_public_checkpoint(path, tokenizer, "purception", heads=HEADS)
    with pytest.raises(InputError, match="heads"):
        convert_public_checkpoint(path, tokenizer, heads=5)
    tensors = public.state_dict()
    torch.save(tensors | {"blocks.1.attn.proj.bias": torch.full((WIDTH,), torch.inf)}, tmp_path / "broken.pth")
    with pytest.raises(InputError, match=r"broken\.pth holds .* in blocks\.1\.attn\.proj\.bias"):
        convert_public_checkpoint(tmp_path / "broken.pth", tokenizer, heads=HEADS)
    del tensors["blocks.1.attn.proj.bias"]
    tensors["blocks.1.attn.q_norm.weight"] = torch.ones(8)
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(
        InputError, match=r"missing: blocks\.1\.attn\.proj\.bias; left over: blocks\.1\.attn\.q_norm"
    ):
        convert_public_checkpoint(tmp_path / "odd.pth", tokenizer, heads=HEADS)
    torch.save({"state_dict": {"a": torch.ones(1)}, "b": torch.ones(1)}, tmp_path / "else.pth")
    with pytest.raises(InputError, match="holds no network of the public implementation"):
        convert_public_checkpoint(tmp_path / "else.pth", tokenizer)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot read"):
        convert_public_checkpoint(path, tokenizer)
