"""The network of backbone and heads: views, state_dict, gradients, weights from elsewhere."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.vgg import VGG, cfgs, make_layers

from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, build_network, load_backbone_weights
from study.networks.settings import HeadSettings, NetworkSettings

KINDS = ("bof", "linear", "conv", "separable")


def network(backbone: str = "vgg11", *, kind: str = "bof", classes: int = 10, width: float = 0.125) -> MultiExitNetwork:
    settings = NetworkSettings(backbone=backbone, width=width, head=HeadSettings(kind=kind, codewords=8))
    return build_network(settings, classes=classes, image_size=32, channels=3)


@pytest.mark.parametrize("backbone", ["vgg19", "resnet34"])
@torch.no_grad()
def test_forward_holds_every_exit_and_the_classifier(backbone):
    net = network(backbone, classes=100).eval()
    images = torch.rand(2, 3, 32, 32)
    logits = net(images)
    assert logits.shape == (2, net.exit_count + 1, 100)
    assert torch.equal(logits[:, -1], net.classify(images))
    assert torch.equal(net.classify(images), net.backbone(images))
    state = (images,)
    for number in range(1, net.exit_count + 1):
        state = net.segments[number - 1](state)
        assert state[0].shape[1:] == net.exit_shapes[number - 1]
        assert torch.equal(net.heads(state[0], number), logits[:, number - 1])


@pytest.mark.parametrize("backbone", ["vgg19", "resnet18"])
@pytest.mark.parametrize("kind", KINDS)
def test_joint_training_reaches_every_parameter(backbone, kind):
    torch.manual_seed(0)
    net = network(backbone, kind=kind).train()
    labels = torch.tensor([1, 2, 3, 4])
    logits = net(torch.randn(4, 3, 32, 32))
    loss = sum(nn.functional.cross_entropy(at_exit, labels) for at_exit in logits.unbind(dim=1))
    loss.backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unreached == []


def test_gradients_of_a_resnet_with_exits_are_right():
    """In float64, against a network whose every ReLU works out of place."""
    torch.manual_seed(0)
    net = network("resnet18").double().train()
    twin = copy.deepcopy(net)
    for layer in twin.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for each in (net, twin):
        each(images).square().sum().backward()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_building_leaves_batch_norm_untouched_and_in_train_mode():
    net = network("resnet18", kind="conv")
    assert all(module.training for module in net.modules())
    buffers = dict(net.named_buffers())
    assert all(b.eq(0).all() for name, b in buffers.items() if name.endswith(("running_mean", "tracked")))
    assert all(b.eq(1).all() for name, b in buffers.items() if name.endswith("running_var"))


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_segments_stay_views_of_the_backbone(backbone):
    original = network(backbone)
    clone = copy.deepcopy(original)
    clone.to(torch.float64)
    own = {id(p) for p in clone.backbone.parameters()}
    walked = [p for part in (*clone.segments, clone.classifier) for p in part.parameters()]
    assert {id(p) for p in walked} == own
    assert all(p.dtype == torch.float64 for p in walked)
    assert own.isdisjoint(id(p) for p in original.parameters())
    assert all(p.dtype == torch.float32 for p in original.parameters())
    with torch.no_grad():
        images = torch.rand(1, 3, 32, 32)
        before = original.eval().classify(images)
        for p in clone.parameters():
            p.zero_()
        assert torch.equal(original.classify(images), before)
        assert clone.eval().classify(images.double()).abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", ["vgg19", "resnet34"])
def test_state_dict_has_each_tensor_once_and_survives_safetensors(backbone, kind, tmp_path):
    torch.manual_seed(0)
    net = network(backbone, kind=kind).eval()
    state = net.state_dict()
    pointers = [tensor.data_ptr() for tensor in state.values()]
    assert len(pointers) == len(set(pointers))
    assert {name.split(".")[0] for name in state} == {"backbone", "heads"}
    save_file(state, tmp_path / "network.safetensors")
    other = network(backbone, kind=kind).eval()
    other.load_state_dict(load_file(tmp_path / "network.safetensors"))
    with torch.no_grad():
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(other(images), net(images))


def torchvision_vgg19_bn(*, classes: int) -> nn.Module:
    """Torchvision's own network, with the classifier that small images need."""
    with torch.device("meta"):
        model = VGG(nn.Identity(), init_weights=False)
    model.features = make_layers(cfgs["E"], batch_norm=True)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Linear(512, classes)
    return model.eval()


@torch.no_grad()
def test_a_torchvision_state_dict_loads_as_it_is():
    theirs = torchvision_vgg19_bn(classes=10)
    ours = network("vgg19_bn", width=1.0).eval()
    weights = {name: t for name, t in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    load_backbone_weights(ours, weights)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours.classify(images), theirs(images))


def test_a_state_dict_of_this_project_loads_without_its_heads():
    source, target = network(kind="linear"), network(kind="bof")
    heads = {name: tensor.clone() for name, tensor in target.heads.state_dict().items()}
    load_backbone_weights(target, source.state_dict())
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(tensor, target.backbone.state_dict()[name])
    assert all(torch.equal(heads[name], tensor) for name, tensor in target.heads.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "module.backbone."])
def test_prefixes_that_all_names_share_are_stripped(prefix):
    source, target = network(), network()
    load_backbone_weights(target, {f"{prefix}{name}": tensor for name, tensor in source.backbone.state_dict().items()})
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(tensor, target.backbone.state_dict()[name])


@pytest.mark.parametrize("own_names", [True, False])
def test_weights_that_do_not_fit_are_told_in_one_line(own_names):
    def weights(net: MultiExitNetwork) -> dict[str, torch.Tensor]:
        return net.state_dict() if own_names else net.backbone.state_dict()

    target = network()
    before = copy.deepcopy(target.state_dict())
    prefix = "backbone." if own_names else ""

    def refused(tensors: dict[str, torch.Tensor]) -> str:
        with pytest.raises(UserError) as error:
            load_backbone_weights(target, tensors)
        assert "\n" not in str(error.value)
        return str(error.value).removeprefix("the weights do not fit the backbone: ")

    other_classes = weights(network(classes=100))
    assert refused(other_classes) == "classifier.weight has shape [100, 64], this network's is [10, 64]"
    lacking = {name: t for name, t in weights(network()).items() if name != f"{prefix}features.0.bias"}
    assert refused(lacking) == "they lack features.0.bias"
    extra = weights(network()) | {f"{prefix}stem.a": torch.ones(1), f"{prefix}stem.b": torch.ones(1)}
    assert refused(extra) == "they have an unexpected stem.a and 1 more"
    assert refused({"unknown": torch.ones(1)}).startswith("they lack features.0.weight and ")
    assert refused({"unknown": torch.ones(1)}).endswith(" more; they hold unknown")
    many = {f"{name}.weight": torch.ones(1) for name in "abcde"}
    assert refused(many).endswith(" more; they hold a.weight, b.weight, c.weight and 2 more")
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())
