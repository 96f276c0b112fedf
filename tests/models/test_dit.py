

@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_every_block_reads_tokens_whose_channels_lie_side_by_side(positions: Positions) -> None:
    """Another layout gives the same figures, but on a GPU each operation on it takes two to five times as long."""
    network = DiT(DiTConfig(depth=2, width=32, heads=2, patch_size=2, positions=positions), (8, 4), 4, num_classes=3)
    seen = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    features = network(torch.randn(3, 4, 8, 4), torch.rand(3), torch.zeros(3, dtype=torch.long))
    assert [tokens.is_contiguous() for tokens in (*seen, features)] == [True, True, True]


def test_gradients_of_queries_keys_and_values_come_together_without_a_copy() -> None:
    attention = Attention(DiTConfig(width=32, heads=2))
    layouts = []
    attention.qkv.register_full_backward_hook(lambda _, __, gradients: layouts.append(gradients[0].stride()))
    x = torch.randn(3, 8, 32, requires_grad=True)
    with profile() as recorded:
        attention(x).sum().backward()
    assert layouts == [(8 * 96, 96, 1)]
    assert not [event for event in recorded.events() if event.name == "aten::clone" and "View" in str(event.cpu_parent)]
