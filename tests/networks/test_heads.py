"""Exit heads: which exits share what, where grids are clamped, what each kind looks like."""

from dataclasses import asdict

import pytest
import torch

from search_spaces.settings import settings_of
from study.costs.flops import count_work
from study.errors import UserError
from study.networks.heads import MixedPooling, build_heads
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.registry import ExitPoint
from study.networks.settings import HeadSettings, NetworkSettings


def network(backbone: str, *, width: float = 0.25, image_size: int = 32, **head: object) -> MultiExitNetwork:
    settings = NetworkSettings(backbone=backbone, width=width, head=HeadSettings(**head))
    return build_network(settings, classes=10, image_size=image_size, channels=3)


def parts_of_exit(net: MultiExitNetwork, exit: int) -> set[str]:
    """Names of the head parameters that a loss at this exit alone reaches."""
    net.zero_grad(set_to_none=True)
    torch.manual_seed(exit)
    net.heads(torch.randn(2, *net.exit_shapes[exit - 1]), exit).square().sum().backward()
    return {name for name, p in net.heads.named_parameters() if p.grad is not None}


def groups(net: MultiExitNetwork, part: str) -> list[list[int]]:
    """Exits grouped by the very parameters of `part` that they use; exits that use none are left out."""
    users: dict[frozenset[str], list[int]] = {}
    for exit in range(1, net.exit_count + 1):
        names = frozenset(name for name in parts_of_exit(net, exit) if name.startswith(part))
        if names:
            users.setdefault(names, []).append(exit)
    return sorted(users.values())


def test_vgg_shares_codebooks_by_channels_and_linear_layers_by_network():
    net = network("vgg19", codewords=8)
    assert groups(net, "codebooks") == [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11], list(range(12, 21))]
    assert groups(net, "outputs") == [list(range(1, 21))]
    grid_one = {3, 6, 11, 16, 17, 18, 19, 20}
    assert groups(net, "hidden") == [[exit for exit in range(1, 21) if exit not in grid_one]]


def test_resnet_shares_codebooks_by_block_and_linear_layers_by_stage():
    net = network("resnet34", codewords=8)
    stages = [list(range(1, 7)), list(range(7, 15)), list(range(15, 27)), list(range(27, 33))]
    assert groups(net, "codebooks") == [[exit, exit + 1] for exit in range(1, 33, 2)]
    assert groups(net, "outputs") == stages
    assert groups(net, "hidden") == stages


def test_sharing_none_gives_every_exit_its_own_parts():
    net = network("vgg11", codewords=8, sharing="none")
    each = [[exit] for exit in range(1, 13)]
    assert groups(net, "codebooks") == each
    assert groups(net, "outputs") == each


def test_window_scales_start_at_the_side_of_the_pooling_window():
    net = network("vgg19", codewords=8)
    expected = [16, 16, 16, 8, 8, 8, *[4] * 4, 4, *[2] * 4, 2, *[2] * 4]
    assert net.heads.window_scales.tolist() == expected


def test_bof_head_is_codebook_then_scale_then_linear_layers():
    net = network("vgg11", codewords=8).eval()
    feature = torch.rand(2, *net.exit_shapes[0])
    heads = net.heads
    histogram = 16 * heads.codebooks["channels16"](feature, 2)
    hidden = torch.relu(heads.hidden["network_grid2"](histogram.flatten(1)))
    torch.testing.assert_close(heads(feature, 1), heads.outputs["network"](hidden))
    assert heads.hidden["network_grid2"].in_features == 4 * 8


def test_grid_is_clamped_to_a_smaller_map():
    net = network("resnet18", codewords=8, image_size=8)
    assert net.exit_shapes[-1][1:] == (1, 1)
    assert net(torch.rand(2, 3, 8, 8)).shape == (2, 17, 10)
    assert "layer4_grid1" not in net.heads.hidden
    assert net.heads.window_scales[-1] == 1


def test_linear_head_averages_the_map():
    net = network("vgg11", kind="linear")
    feature = torch.rand(2, *net.exit_shapes[3])
    linear = net.heads.exits[3][-1]
    torch.testing.assert_close(net.heads(feature, 4), linear(feature.mean(dim=(2, 3))))


def test_conv_head_pools_down_but_never_up():
    net = network("vgg11", kind="conv", conv_channels=8, conv_side=8).eval()
    sides = []
    for exit, shape in enumerate(net.exit_shapes, start=1):
        convolution = net.heads.exits[exit - 1][1]
        convolution.register_forward_hook(lambda module, args, output: sides.append(output.shape[-1]))
        assert net.heads(torch.rand(2, *shape), exit).shape == (2, 10)
    assert sides == [min(8, height) for _, height, _ in net.exit_shapes]


@pytest.mark.parametrize("kind", ["conv", "separable"])
def test_more_convolutions_see_a_coarser_map_of_more_channels(kind):
    net = network("vgg11", kind=kind, conv_channels=8, conv_side=8, conv_layers=5).eval()
    head = net.heads.exits[0]
    seen = []
    for norm in (layer for layer in head if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[1:])))
    head(torch.rand(1, *net.exit_shapes[0]))
    assert seen == [(8, 8, 8), (8, 8, 8), (16, 4, 4), (16, 4, 4), (32, 2, 2)]
    for exit, shape in enumerate(net.exit_shapes, start=1):  # small maps are left as they are
        assert net.heads(torch.rand(2, *shape), exit).shape == (2, 10)


def test_a_mixture_of_max_and_average_by_hand():
    pooling = MixedPooling(4, 4, side=2)
    with torch.no_grad():
        pooling.share_of_max.fill_(0.3)
    feature = torch.rand(2, 3, 4, 4)
    windows = feature.reshape(2, 3, 2, 2, 2, 2).transpose(3, 4).flatten(4)
    torch.testing.assert_close(pooling(feature), 0.3 * windows.amax(4) + 0.7 * windows.mean(4))
    assert MixedPooling(7, 7, side=2)(torch.rand(1, 1, 7, 7)).shape[2:] == (2, 2)
    assert MixedPooling(2, 2, side=4)(torch.rand(1, 1, 2, 2)).shape[2:] == (2, 2)  # a map is never made larger


@pytest.mark.parametrize("kind", ["linear", "conv", "separable"])
@pytest.mark.parametrize("side", [1, 4])
def test_a_head_with_a_mixture_costs_what_its_linear_layer_costs(kind, side):
    settings = {"kind": kind, "conv_channels": 8, "pooling_side": side}
    flops = [count_work(network("vgg11", **settings, pooling=one)).head_flops for one in ("average", "max_average")]
    assert flops[0].tolist() == flops[1].tolist()
    net = network("vgg11", **settings, pooling="max_average")
    height = net.exit_shapes[0][1] if kind == "linear" else 8
    assert net.heads.exits[0][-1].in_features == min(side, height) ** 2 * (
        net.exit_shapes[0][0] if kind == "linear" else 8
    )
    assert parts_of_exit(net, 1) >= {f"exits.0.{len(net.heads.exits[0]) - 3}.share_of_max"}


def test_every_setting_is_part_of_the_plain_values():
    assert asdict(HeadSettings(kind="conv")).keys() == settings_of(HeadSettings).keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"conv_layers": 17}, "conv_layers must be a whole number from 1 to 16, got 17"),
        ({"kind": "fog"}, "head must be bof, linear, conv or separable, got 'fog'"),
        ({"sharing": "all"}, "sharing must be paper or none, got 'all'"),
        ({"codewords": 0}, "codewords must be a whole number from 1 to 65536, got 0"),
        ({"conv_side": -1}, "conv_side must be a whole number from 1 to 65536, got -1"),
    ],
)
def test_wrong_settings_are_told_in_one_line(wrong, message):
    with pytest.raises(UserError, match=message) as error:
        HeadSettings(**wrong)
    assert "\n" not in str(error.value)


def test_a_codebook_cannot_serve_two_channel_counts():
    exits = [ExitPoint("a", "words", "all", grid=1), ExitPoint("b", "words", "all", grid=1)]
    with pytest.raises(ValueError, match="exit b has 5 channels, its codebook words 4"):
        build_heads(HeadSettings(), exits, shapes=[(4, 2, 2), (5, 2, 2)], classes=3)
