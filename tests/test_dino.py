"""Features of the vision transformer: one forward for many layers and facets, gradients, loading."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.dino import (
    DinoFeatures,
    SharedTokens,
    ViTConfig,
    build_vit,
    clean_vit_state,
    self_similarity,
    vit_from_hub,
    vit_from_state,
)

CONFIG = ViTConfig(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2)


@pytest.fixture()
def features() -> DinoFeatures:
    return DinoFeatures(build_vit(CONFIG), image_size=32)


def test_tokens_match_hooks_on_the_transformer(features: DinoFeatures) -> None:
    image = torch.rand(2, 3, 48, 48) * 2 - 1
    seen = {}
    for index, block in enumerate(features.vit.blocks):
        block.register_forward_hook(lambda m, i, out, index=index: seen.__setitem__(("f", index), out))
        block.attn.qkv.register_forward_hook(lambda m, i, out, index=index: seen.__setitem__(("qkv", index), out))
    with torch.no_grad():
        features.vit.forward_features(features.prepare(image))
    expected = dict(seen)
    tokens = features.tokens(image, layers=(0, 2), facets="fqkv")
    assert set(tokens) == {(facet, layer) for facet in "fqkv" for layer in (0, 2)}
    for layer in (0, 2):
        parts = expected["qkv", layer].reshape(2, 17, 3, 2, 12)
        for position, facet in enumerate("qkv"):
            assert torch.allclose(tokens[facet, layer], parts[:, 1:, position].flatten(2), atol=1e-5)
        assert torch.allclose(tokens["f", layer], expected["f", layer][:, 1:], atol=1e-5)
        assert tokens["f", layer].shape == (2, 16, 24)


def test_one_forward_however_many_layers(features: DinoFeatures) -> None:
    calls = []
    features.vit.patch_embed.register_forward_hook(lambda *_: calls.append("patches"))
    features.vit.blocks[1].attn.qkv.register_forward_hook(lambda *_: calls.append("qkv"))
    features.tokens(torch.zeros(5, 3, 32, 32), layers=range(3), facets="fqkv")
    assert calls == ["patches", "qkv"]


def test_stops_at_the_last_layer(features: DinoFeatures) -> None:
    features.vit.blocks[2].register_forward_pre_hook(lambda *_: pytest.fail("layer 2 is not needed"))
    features.tokens(torch.zeros(1, 3, 32, 32), layers=[1], facets="k")


def test_batch_does_not_matter(features: DinoFeatures) -> None:
    images = torch.rand(3, 3, 40, 40) * 2 - 1
    together = features.tokens(images, layers=[1])["k", 1]
    alone = torch.cat([features.tokens(image[None], layers=[1])["k", 1] for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_gradients_reach_the_image_only(features: DinoFeatures) -> None:
    image = torch.zeros(1, 3, 48, 48, requires_grad=True)
    features.tokens(image, layers=[2], facets="f")["f", 2].square().sum().backward()
    assert image.grad is not None and bool(image.grad.abs().sum() > 0)
    assert all(parameter.grad is None for parameter in features.parameters())
    features.train()
    assert not features.vit.training


def test_shared_tokens_are_computed_once(features: DinoFeatures, passes) -> None:
    """All who ask about one image are given what one pass found, while it is that image and gradients are wanted as before."""
    shared, image = SharedTokens(features, layers=(0, 2), facets="fk"), torch.rand(1, 3, 64, 64).requires_grad_(True)
    drawn = 2.0 * image - 1.0
    first, second = shared.tokens(drawn, layers=(0,), facets="f"), shared.tokens(drawn, layers=(0, 2))
    assert len(passes) == 1 and list(second) == [("k", 0), ("k", 2)] and list(first) == [("f", 0)]
    own = features.tokens(drawn, layers=(0, 2), facets="fk")
    assert all(torch.equal(found[key], own[key]) for found in (first, second) for key in found)
    (first["f", 0].square().sum() + second["k", 2].square().sum()).backward(retain_graph=True)
    gradient, image.grad = image.grad, None
    (own["f", 0].square().sum() + own["k", 2].square().sum()).backward()
    assert torch.allclose(gradient, image.grad, rtol=1e-5, atol=1e-7 * float(image.grad.abs().max()))
    with torch.no_grad():
        assert not shared.tokens(drawn, layers=(2,))["k", 2].requires_grad
        drawn.zero_()
        assert not torch.equal(shared.tokens(drawn, layers=(2,))["k", 2], second["k", 2])
    assert len(passes) == 4
    with pytest.raises(KeyError):
        shared.tokens(drawn, layers=(1,))


def test_prepare(features: DinoFeatures) -> None:
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    resized = F.interpolate((image + 1) / 2, size=(32, 32), mode="bilinear", align_corners=False)
    expected = (resized[:, 0] - 0.485) / 0.229
    assert torch.allclose(features.prepare(image)[:, 0], expected, atol=1e-6)


def test_wrong_inputs(features: DinoFeatures) -> None:
    image = torch.zeros(1, 3, 32, 32)
    for bad in ({"layers": [3]}, {"layers": []}, {"layers": [0], "facets": "x"}, {"layers": [-1]}):
        with pytest.raises(ValueError):
            features.tokens(image, **bad)
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\]"):
        features.tokens(image[0], layers=[0])
    with pytest.raises(ValueError, match="image_size"):
        DinoFeatures(build_vit(CONFIG), image_size=64)
    with pytest.raises(ValueError):
        ViTConfig(img_size=30)


def test_self_similarity() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]]])
    expected = torch.tensor([[1, 0, 0.5**0.5, 0], [0, 1, 0.5**0.5, 0], [0.5**0.5, 0.5**0.5, 1, 0], [0, 0, 0, 0]])
    assert torch.allclose(self_similarity(tokens)[0], expected, atol=1e-6)
    random = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)
    assert torch.allclose(self_similarity(random), self_similarity(3 * random))
    assert torch.autograd.gradcheck(self_similarity, (random,))
    with pytest.raises(ValueError, match="tokens"):
        self_similarity(tokens[0])


def test_loading_states() -> None:
    vit = build_vit(CONFIG)
    state = vit.state_dict()
    wrapped = {"teacher": {"backbone." + key: value for key, value in state.items()} | {"head.mlp": torch.ones(1)}}
    loaded, config = vit_from_state(wrapped)
    assert config.embed_dim == 24 and config.depth == 3 and config.img_size == 32
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    bigger, config = vit_from_state(state, img_size=64)
    assert bigger.pos_embed.shape == (1, 65, 24) and torch.equal(bigger.pos_embed[:, 0], vit.pos_embed[:, 0])
    with pytest.raises(ValueError, match="not the weights"):
        clean_vit_state({"a": torch.zeros(1)})
    for change in ("blocks.1.norm1.bias", "surplus"):
        broken = {key: value for key, value in state.items() if key != change}
        if change == "surplus":
            broken[change] = torch.zeros(1)
        with pytest.raises(ValueError, match=change):
            vit_from_state(broken, config=CONFIG)


def test_hub_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("models.dino._reachable", lambda name: True)
    with pytest.raises(RuntimeError, match="--vit starter"):
        vit_from_hub()


def test_construction_leaves_global_rng_alone() -> None:
    before = torch.get_rng_state()
    first, second = build_vit(CONFIG), build_vit(CONFIG)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.blocks[0].attn.qkv.weight, second.blocks[0].attn.qkv.weight)
