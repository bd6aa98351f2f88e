import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_shared.errors import DeviceError, InputError, MissingExtraError, UsageError
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_srga.features import Tap, open_tap, tap_module, tap_script
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

CPU = torch.device("cpu")
SIDE = 8


class Shuffled(nn.Module):
    """The tail is registered before the body; a module that never runs comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Conv2d(6, 12, 3, padding=1)
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.unused = nn.Conv2d(6, 6, 1)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(F.relu(self.head(image))), 2)

    def expected(self, image: Tensor) -> Tensor:
        return F.relu(self.head(image))


class Functional(nn.Module):
    """Convolves with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(12, 6, 3, 3))

    def forward(self, image: Tensor) -> Tensor:
        features = F.gelu(self.head(image))
        return F.pixel_shuffle(F.conv2d(features, self.kernel, padding=1), 2)

    def expected(self, image: Tensor) -> Tensor:
        return F.gelu(self.head(image))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.tail = nn.ConvTranspose2d(6, 3, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.tail(torch.tanh(self.head(image)))

    def expected(self, image: Tensor) -> Tensor:
        return torch.tanh(self.head(image))


class Repeated(nn.Module):
    """One convolution runs three times, the last one last of all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        image = F.interpolate(image, scale_factor=2.0)
        for _ in range(3):
            image = torch.relu(self.conv(image))
        return image

    def expected(self, image: Tensor) -> Tensor:
        image = F.interpolate(image, scale_factor=2.0)
        for _ in range(2):
            image = torch.relu(self.conv(image))
        return image


LAYERS: dict[type[nn.Module], str] = {
    Shuffled: "input of tail",
    Functional: "input of convolution 2 of 2",
    Transposed: "input of tail",
    Repeated: "input of conv",
}


def picture(side: int = SIDE, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(side + count)
    coarse = torch.rand((count, 3, 3, 3), generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear")


def seeded(kind: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind().eval()


def opened(network: nn.Module, *, layer: str = "auto", scale: int = 2, name: str = "mine") -> Tap:
    return tap_module(network, name=name, layer=layer, scale=scale, device=CPU, example=picture())


def quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def to_script(network: nn.Module, how: str) -> Any:
    if how == "trace":
        return quietly(lambda: torch.jit.trace(network, picture(count=2)))
    scripted = quietly(lambda: torch.jit.script(network))
    return quietly(lambda: torch.jit.freeze(scripted)) if how == "freeze" else scripted


def script_file(network: nn.Module, how: str, folder: Path) -> Path:
    path = folder / f"{how}.pt"
    quietly(lambda: torch.jit.save(to_script(network, how), path))
    return path


@pytest.mark.parametrize("kind", LAYERS)
def test_auto_is_the_input_of_the_last_convolution_that_runs(kind: type[nn.Module]):
    network = seeded(kind)
    low = picture(count=5)
    tap = opened(network)
    features, output = tap(low)
    assert tap.layer == LAYERS[kind]
    assert tap.name == "mine"
    assert features.dtype == torch.float32
    assert features.is_contiguous()
    assert torch.equal(features, network.expected(low).flatten(1))
    assert torch.equal(output, network(low))
    features += 1  # a plain tensor
    assert torch.equal(tap(low)[1], output)


@pytest.mark.parametrize("how", ["script", "trace", "freeze"])
@pytest.mark.parametrize("kind", LAYERS)
def test_torchscript_gives_the_same_as_eager(kind: type[nn.Module], how: str, tmp_path: Path):
    network = seeded(kind)
    path = script_file(network, how, tmp_path)
    tap = tap_script(path, scale=2, device=CPU, example=picture())
    low = picture(count=3)
    for _ in range(3):  # TorchScript optimizes from the second run on
        features, output = tap(low)
        assert torch.allclose(features, network.expected(low).flatten(1), atol=1e-6)
        assert torch.allclose(output, network(low), atol=1e-6)
    known = how != "freeze"
    convolutions = {"Repeated": 3}.get(kind.__name__, 2)
    unnamed = f"input of convolution {convolutions} of {convolutions}"
    assert tap.layer == (LAYERS[kind] if known else unnamed)
    assert tap.name == f"{how}.pt"


def test_a_layer_of_torchscript_by_name(tmp_path: Path):
    network = seeded(Shuffled)
    path = script_file(network, "script", tmp_path)
    low = picture(count=2)
    tap = tap_script(path, layer="head", scale=2, device=CPU, example=picture())
    assert tap.layer == "input of head"
    assert torch.equal(tap(low)[0], low.flatten(1))
    with pytest.raises(UsageError, match="never runs 'unused', and in TorchScript only conv"):
        tap_script(path, layer="unused", scale=2, device=CPU, example=picture())
    with pytest.raises(UsageError, match="has no layer 'tall'") as caught:
        tap_script(path, layer="tall", scale=2, device=CPU, example=picture())
    assert caught.value.hint == "layers are tail, head, unused, auto, output"


def test_a_traced_batch_size_runs_patch_by_patch(tmp_path: Path):
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            return F.pixel_shuffle(self.conv(image.reshape(1, 3, SIDE, SIDE)), 2)

    network = seeded(Fixed)
    path = tmp_path / "fixed.pt"
    quietly(lambda: torch.jit.save(torch.jit.trace(network, picture()), path))
    low = picture(count=3)
    features, output = tap_script(path, scale=2, device=CPU, example=picture())(low)
    assert torch.equal(features, low.flatten(1))
    assert output.shape == (3, 3, 2 * SIDE, 2 * SIDE)


class Blocks(nn.Module):
    """A block that starts in place, a module with keywords, reflect padding, and cast weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.block = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1))
        self.tail = nn.Conv2d(6, 3, 3, padding=1, padding_mode="reflect")
        self.idle = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.tail(input=self.block(self.head(image)))


def test_layers_by_name_are_read_before_what_they_change():
    network = seeded(Blocks)
    low = picture(count=2)
    tap = opened(network, layer="block", scale=1)
    assert tap.layer == "input of block"
    assert torch.equal(tap(low)[0], network.head(low).flatten(1))
    before_padding = network.block(network.head(low)).flatten(1)
    for layer in ("tail", "auto"):
        tap = opened(network, layer=layer, scale=1)
        assert tap.layer == "input of tail"
        assert torch.equal(tap(low)[0], before_padding)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_names_of_convolutions_without_their_modules():
    class Borrowing(nn.Module):
        """Runs one module's weights itself; two modules share theirs."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 3, 1)
            self.first = nn.Conv2d(3, 3, 1)
            self.last = nn.Conv2d(3, 3, 1)
            self.last.weight = self.first.weight

        def forward(self, image: Tensor) -> Tensor:
            image = F.conv2d(image, self.head.weight) + 1
            return self.last(self.first(image))

    network = seeded(Borrowing)
    low = picture(count=2)
    borrowed = opened(network, layer="head", scale=1)
    assert borrowed.layer == "input of head"
    assert torch.equal(borrowed(low)[0], low.flatten(1))
    tied = opened(network, scale=1)
    assert tied.layer == "input of last"
    expected = network.first(F.conv2d(low, network.head.weight) + 1)
    assert torch.equal(tied(low)[0], expected.flatten(1))
    nn.utils.parametrizations.weight_norm(network.last)
    assert opened(network, scale=1).layer == "input of last"


def test_output_is_a_layer():
    network = seeded(Shuffled)
    low = picture(count=2)
    tap = opened(network, layer="output")
    assert tap.layer == "output"
    features, output = tap(low)
    assert torch.equal(features, network(low).flatten(1))
    assert torch.equal(features, output.flatten(1))


def test_half_features_become_float32():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.conv(image.bfloat16())

    tap = opened(seeded(Half), scale=1)
    features, output = tap(picture(count=2))
    assert tap.layer == "input of conv"
    assert features.dtype == output.dtype == torch.float32


def test_noise_and_neighbors_do_not_matter():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            return self.conv((image - image.mean()) * torch.rand_like(image))

    tap = opened(seeded(Noisy), scale=1)
    low = picture(count=3)
    state = torch.get_rng_state()
    features, output = tap(low)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tap(low)[0], features)
    assert torch.equal(tap(low)[1], output)
    assert torch.equal(tap(low[1:])[0], features[1:])


def test_a_batch_does_not_change_its_patches():
    tap = opened(seeded(Shuffled))
    low = picture(count=6)
    features, _ = tap(low)
    alone = torch.cat([tap(patch)[0] for patch in low.split(1)])
    assert torch.allclose(features, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("tial", "mine has no layer 'tial'"),
        ("", "mine has no layer ''"),
        ("idle", "mine never runs 'idle'"),
    ],
)
def test_layers_that_cannot_be_read(layer: str, said: str):
    with pytest.raises(UsageError, match=said) as caught:
        opened(seeded(Blocks), layer=layer, scale=1)
    close = "tail, head, block.1" if layer == "tial" else "head, block.1, tail"
    assert caught.value.hint == f"layers are {close}, auto, output"


def returning(forward: Callable[[Tensor], object]) -> nn.Module:
    """A network whose module `layer` runs within, if the function calls it."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, image: Tensor) -> object:
            return forward(image)

    return Network()


def test_a_network_without_convolution():
    network = returning(lambda image: image * 1)
    with pytest.raises(UsageError, match="mine runs no convolution") as caught:
        opened(network, scale=1)
    assert "output" in str(caught.value.hint)
    assert opened(network, layer="output", scale=1)(picture())[0].shape == (1, 3 * SIDE**2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: (image,), "is no tensor but a tuple"),
        (lambda image: image.long(), "holds torch.int64, no floating-point numbers"),
        (lambda image: image[0], "its first axis is not the batch of 1"),
        (lambda image: image.sum(), "its first axis is not the batch of 1"),
        (lambda image: image[:, :, :0], "the input of layer is empty"),
    ],
)
def test_features_that_cannot_be_read(change: Callable[[Tensor], object], said: str):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, image: Tensor) -> Tensor:
            self.layer(change(image))
            return image * 1

    with pytest.raises(InputError, match=said):
        opened(Network(), layer="layer", scale=1)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda image: (image, image), "the output is no tensor but a tuple"),
        (lambda image: image[:, :2], "no RGB picture"),
        (lambda image: image[:, :, 1:, 1:], "no whole upscaling factor"),
        (lambda image: image[:, :, ::2, ::2], "no whole upscaling factor"),
        (lambda image: image / 0, "is not finite"),
        (lambda image: image.view(7), "mine: RuntimeError: shape"),
        (lambda image: sys.exit("enough"), "mine: SystemExit: enough"),
        (
            lambda image: F.interpolate(image, scale_factor=2.0),
            "mine upscales by 2, and the patches are 8 and 8 wide: 1",
        ),
    ],
)
def test_networks_that_cannot_be_used(forward: Callable[[Tensor], object], said: str):
    with pytest.raises(InputError, match=said):
        opened(returning(forward), layer="output", scale=1)


def test_too_little_memory_is_no_fault_of_the_network():
    def forward(image: Tensor) -> Tensor:
        raise MemoryError

    with pytest.raises(DeviceError, match="mine: out of memory"):
        opened(returning(forward), layer="output", scale=1)


def test_other_layers_for_other_patches():
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.second = nn.Conv2d(3, 3, 1)

        def forward(self, image: Tensor) -> Tensor:
            return self.first(image) if image.mean() > 0 else self.second(image)

    tap = opened(seeded(Moody), scale=1)
    with pytest.raises(InputError, match="input of second instead of input of first"):
        tap(torch.zeros(1, 3, SIDE, SIDE))


def test_what_hides_its_convolutions_is_refused():
    scripted = to_script(seeded(Shuffled), "script")
    hidden = quietly(lambda: torch.jit.optimize_for_inference(scripted))
    if "mkldnn" not in str(hidden.inlined_graph):
        pytest.skip("this torch has no MKLDNN")
    with pytest.raises(InputError, match="optimized for inference"):
        opened(hidden)


# --- open_tap -------------------------------------------------------------------------------------

SOURCE = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.tail = nn.Conv2d(4, 12, 3, padding=1)
        self.white = 1.0

    def forward(self, image):
        return nn.functional.pixel_shuffle(self.tail(self.head(image)), 2)

def broken():
    raise ValueError("no such day")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_open_tap_takes_the_users_own(source: Path, tmp_path: Path):
    tap = open_tap(f"{source}:Network", scale=2, side=SIDE, device="cpu")
    assert tap.layer == "input of tail"
    full = open_tap(f"{source}:Network", scale=2, white=255, side=SIDE, device="cpu", layer="tail")
    assert full.layer == "input of tail"
    low = picture(count=2)
    assert not torch.equal(full(low)[0], tap(low)[0])
    checkpoint = tmp_path / "best.pth"
    torch.save({"head.weight": torch.zeros(1)}, checkpoint)
    with pytest.raises(InputError, match="no such day"):
        open_tap(f"{source}:broken", scale=2, device="cpu")
    with pytest.raises(InputError, match=r"best\.pth holds no TorchScript") as caught:
        open_tap(str(checkpoint), scale=2, device="cpu")
    assert caught.value.hint == f"weights alone need their network: module:factory@{checkpoint}"


def test_open_tap_gives_weights_to_the_users_own(source: Path, tmp_path: Path):
    checkpoint = tmp_path / "best.pth"
    shapes = {"head": (4, 3, 3, 3), "tail": (12, 4, 3, 3)}
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    state |= {"head.bias": torch.ones(4), "tail.bias": torch.zeros(12)}
    torch.save(state, checkpoint)
    tap = open_tap(f"{source}:Network@{checkpoint}", scale=2, side=SIDE, device="cpu")
    assert torch.equal(tap(picture())[0], torch.ones(1, 4 * SIDE**2))


@pytest.mark.parametrize("layer", ["auto", "output"])
def test_white_is_the_same_for_all_kinds(layer: str, tmp_path: Path):
    network = seeded(Shuffled)
    path = script_file(network, "script", tmp_path)
    low = picture(count=2)
    tap = open_tap(str(path), scale=2, white=255, side=SIDE, device="cpu", layer=layer)
    features, output = tap(low)
    assert torch.allclose(output, network(255 * low) / 255)
    expected = output if layer == "output" else network.expected(255 * low)
    assert torch.allclose(features, expected.flatten(1))
    with pytest.raises(UsageError, match="white is 1 or 255"):
        open_tap(str(path), scale=2, white=2, side=SIDE, device="cpu")


@pytest.mark.parametrize("name", ["gone.pt", "gone.onnx"])
def test_files_that_are_not_there(name: str):
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=f"{name}: no such file"):
        open_tap(name, device="cpu")


def test_names_that_nothing_has():
    with pytest.raises(UsageError, match="there is no network 'nothing'"):
        open_tap("nothing", device="cpu")
    with pytest.raises(DeviceError, match="no device 'abacus'"):
        open_tap("pan-x4@own", device="abacus")


# --- ONNX -----------------------------------------------------------------------------------------


def onnx_file(
    network: Any,
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("batch", 3, "height", "width"),
    names: bool = True,
    external: bool = False,
    transposed: bool = False,
) -> Path:
    """The graph of `Shuffled` or, transposed, of `Transposed`."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper

    def node(kind: str, inputs: list[str], output: str, name: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=name if names else "", **attributes)

    if transposed:
        nodes = [
            node("Conv", ["image", "head.weight", "head.bias"], "a", "head", pads=[1] * 4),
            node("Tanh", ["a"], "b", "act"),
            node("ConvTranspose", ["b", "tail.weight", "tail.bias"], "y", "tail", strides=[2, 2]),
        ]
    else:
        nodes = [
            node("Conv", ["image", "head.weight", "head.bias"], "a", "head", pads=[1] * 4),
            node("Relu", ["a"], "b", "act"),
            node("Conv", ["b", "tail.weight", "tail.bias"], "c", "tail", pads=[1] * 4),
            node("DepthToSpace", ["c"], "y", "shuffle", blocksize=2, mode="CRD"),
        ]
    number = onnx.TensorProto.FLOAT
    weights = [
        onnx.numpy_helper.from_array(value.numpy(), name)
        for name, value in network.state_dict().items()
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", number, shape)],
        [helper.make_tensor_value_info("y", number, ["n", 3, "H", "W"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=f"{path.name}.data" if external else None,
        size_threshold=0,
    )
    return path


def open_onnx(path: Path, **options: Any) -> Tap:
    return open_tap(str(path), **{"scale": 2, "side": SIDE, **options})


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_onnx_gives_the_same_as_torch(transposed: bool, external: bool, tmp_path: Path):
    network = seeded(Transposed if transposed else Shuffled)
    path = onnx_file(network, tmp_path / "x.onnx", transposed=transposed, external=external)
    tap = open_onnx(path)
    assert (tap.name, tap.layer) == ("x.onnx", "input of tail")
    low = picture(count=3)
    features, output = tap(low)
    with torch.no_grad():
        assert torch.allclose(features, network.expected(low).flatten(1), atol=1e-5)
        assert torch.allclose(output, network(low), atol=1e-5)
    assert torch.equal(tap(low)[0], features)


def test_layers_of_onnx(tmp_path: Path):
    network = seeded(Shuffled)
    path = onnx_file(network, tmp_path / "x.onnx")
    low = picture(count=2)
    with torch.no_grad():
        head, body, output = network.head(low), network.expected(low), network(low)
    for layer, found, expected in [
        ("act", "input of act", head),
        ("b", "tensor b", body),
        ("head", "input of head", low),
        ("output", "output", output),
        ("y", "tensor y", output),
    ]:
        tap = open_onnx(path, layer=layer)
        assert tap.layer == found
        assert torch.allclose(tap(low)[0], expected.flatten(1), atol=1e-5)
    with pytest.raises(UsageError, match=r"x\.onnx has no layer 'tale'") as caught:
        open_onnx(path, layer="tale")
    assert caught.value.hint == "layers are tail, head, auto, output"
    unnamed = open_onnx(onnx_file(network, tmp_path / "unnamed.onnx", names=False))
    assert unnamed.layer == "input of convolution 2 of 2"


@pytest.mark.parametrize("layer", ["auto", "output"])
def test_white_of_onnx(layer: str, tmp_path: Path):
    network = seeded(Shuffled)
    low = picture(count=2)
    tap = open_onnx(onnx_file(network, tmp_path / "x.onnx"), white=255, layer=layer)
    features, output = tap(low)
    with torch.no_grad():
        assert torch.allclose(output, network(255 * low) / 255, atol=1e-5)
        expected = output if layer == "output" else network.expected(255 * low)
    assert torch.allclose(features, expected.flatten(1), atol=1e-3)


def test_onnx_of_one_picture_runs_patch_by_patch(tmp_path: Path):
    network = seeded(Shuffled)
    path = onnx_file(network, tmp_path / "x.onnx", shape=(1, 3, SIDE, SIDE))
    low = picture(count=3)
    features, output = open_onnx(path)(low)
    with torch.no_grad():
        assert torch.allclose(features, network.expected(low).flatten(1), atol=1e-5)
        assert torch.allclose(output, network(low), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (4, 3, "h", "w"), (1, SIDE, SIDE, 3), (3, 8, 8)])
def test_onnx_of_other_pictures(shape: tuple[int | str, ...], tmp_path: Path):
    path = onnx_file(seeded(Shuffled), tmp_path / "x.onnx", shape=shape)
    with pytest.raises(InputError, match=r"x\.onnx"):
        open_onnx(path)


def test_onnx_files_that_cannot_be_used(tmp_path: Path):
    path = onnx_file(seeded(Shuffled), tmp_path / "x.onnx", external=True)
    with pytest.raises(InputError, match="upscales by 2, and the patches are 8 and 32 wide: 4"):
        open_onnx(path, scale=4)
    with pytest.raises(UsageError, match="runs on the CPU, not on cuda"):
        open_onnx(path, device="cuda")
    with pytest.raises(UsageError, match="white is 1 or 255"):
        open_onnx(path, white=3)
    (tmp_path / "x.onnx.data").unlink()
    with pytest.raises(InputError, match=r"x\.onnx\.data"):
        open_onnx(path)
    for content in (b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.onnx"):
            open_onnx(path)


def save_graph(path: Path, nodes: list[Any], outputs: list[Any], **options: Any) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    weight = onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "weight")
    graph = helper.make_graph(nodes, "network", [image], outputs, [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, **options), path)
    return path


def test_onnx_without_convolution_or_with_one_inside(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    plain = save_graph(tmp_path / "a.onnx", [helper.make_node("Relu", ["image"], ["y"])], [result])
    with pytest.raises(UsageError, match=r"a\.onnx has no convolution"):
        open_onnx(plain, scale=1)
    assert open_onnx(plain, scale=1, layer="output")(picture())[0].shape == (1, 3 * SIDE**2)

    inner = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["z"])], "branch", [], [inner]
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", 9, [1], [True])),
        helper.make_node("If", ["yes"], ["y"], "choice", then_branch=branch, else_branch=branch),
    ]
    inside = save_graph(tmp_path / "b.onnx", nodes, [result])
    with pytest.raises(UsageError, match=r"lies within its node 'choice' \(If\)"):
        open_onnx(inside, scale=1)

    function = helper.make_function(
        "own",
        "Tail",
        ["x", "w"],
        ["y"],
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Conv", ["r", "w"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["a"]),
        helper.make_node("Tail", ["a", "weight"], ["y"], domain="own"),
    ]
    functions = save_graph(tmp_path / "c.onnx", nodes, [result], functions=[function])
    low = picture(count=2)
    features, _ = open_onnx(functions, scale=1)(low)
    expected = low.sum(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(features, expected.flatten(1), atol=1e-5)


@pytest.mark.parametrize("number", ["FLOAT16", "INT64"])
def test_numbers_of_onnx_results(number: str, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    kind = getattr(onnx.TensorProto, number)
    result = helper.make_tensor_value_info("y", kind, None)
    node = helper.make_node("Cast", ["image"], ["y"], to=kind)
    path = save_graph(tmp_path / "a.onnx", [node], [result])
    if number == "FLOAT16":
        features, output = open_onnx(path, scale=1, layer="output")(picture())
        assert features.dtype == output.dtype == torch.float32
        return
    with pytest.raises(InputError, match=r"a\.onnx returns a tensor\(int64\)"):
        open_onnx(path, scale=1, layer="output")


def test_onnx_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "x.onnx").touch()
    with pytest.raises(MissingExtraError, match="'onnx' extra of lowvis-srga"):
        open_onnx(tmp_path / "x.onnx")


# --- published networks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "found", "layer", "size", "white"),
    [
        ("pan-x4", "conv_last", "conv_last", 393216, 1),
        ("imdn-x4", "upsampler.0", "upsampler", 65536, 1),
        # The golden run gave pictures in 0..1 to a network of pictures in 0..255; ours scales them.
        ("rfdn-x4", "upsampler.0", "upsampler", 51200, 255),
    ],
)
def test_published_networks_have_the_features_of_the_golden_run(
    model: str, found: str, layer: str, size: int, white: int
):
    kind = model.removesuffix("-x4").upper()
    golden = load_file(mirror_path("golden/srga/networks.safetensors"))
    asset_path("pan/x4/official" if kind == "PAN" else f"aim2020/{model}/official")
    tap = open_tap(f"{model}@official", device="cpu", offline=True, accept_licence=True)
    assert tap.layer == f"input of {found}"
    low = golden["lr.clean"][:4].permute(0, 3, 1, 2).float() / 255 / white
    features, output = tap(low)
    assert features.shape == (4, size)
    assert output.shape == (4, 3, 128, 128)
    expected = golden[f"{kind}.feature_head.clean"]
    sample = features[:, :: size // 512][:, :512]
    assert (sample - expected).abs().max() <= 1e-5 * expected.abs().max()
    named = open_tap(
        f"{model}@official", layer=layer, device="cpu", offline=True, accept_licence=True
    )
    assert torch.equal(named(low)[0], features)


def test_a_published_network_of_another_scale():
    with pytest.raises(InputError, match="pan-x2 upscales by 2, and the patches are 32 and 128"):
        open_tap("pan-x2", device="cpu", offline=True)


def test_reading_features_imports_no_compiler() -> None:
    code = """
import sys, torch
from torch import nn
from lowvis_srga.features import plain_picture, tap_module
network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
tap_module(
    network, name="n", scale=1, device=torch.device("cpu"), example=plain_picture(8)
)
print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
