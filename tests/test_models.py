"""Model families: declarations, shapes, seeds, checkpoints, and what export and pruning ask of them."""

import inspect
import math
import typing
import warnings

import pytest
import torch
import torch_pruning as tp
from safetensors.torch import save_file
from torch import nn

from harness.errors import SpaceError
from harness.models import MODELS
from harness.models.add import Add
from harness.models.build import build_model
from harness.recipe import Model

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar": (3, 32, 32), "wide": (3, 17, 33)}
OPTIONS = {
    "mlp": {"hidden": [12, 7]},
    "lenet5": {"width": 0.2},
    "convnet": {"width": 6, "stages": 3},
    "resnet": {"depth": 8, "width": 4},
}


def built(name: str, shape=(1, 8, 8), classes=10, seed=0, **options) -> nn.Module:
    return build_model(Model(name=name, options={**OPTIONS.get(name, {}), **options}), shape, classes, seed)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_declared_params_are_the_functions_keywords(name):
    function, declared = MODELS[name].load(), MODELS[name].params
    _, _, *keywords = inspect.signature(function).parameters.values()
    assert [p.name for p in keywords] == list(declared)
    hints = typing.get_type_hints(function)
    for keyword in keywords:
        param, hint = declared[keyword.name], hints[keyword.name]
        expected = param.default if param.type is not list else tuple(param.default)
        assert keyword.default == expected
        assert param.type is hint or (param.type is list and typing.get_args(hint) == (int,))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_logits_have_one_column_a_class(name, shape):
    module = built(name, shape, classes=7)
    assert module.training
    assert module(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_weights_follow_from_the_seed_and_the_global_generator_is_left_alone(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = built(name, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    again, other = built(name, seed=3).state_dict(), built(name, seed=4).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_only_layers_that_harness_knows(name):
    known = (
        nn.Sequential,
        nn.Conv2d,
        nn.Linear,
        nn.BatchNorm2d,
        nn.ReLU,
        nn.MaxPool2d,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.Identity,
        Add,
    )
    strange = {type(m).__name__ for m in built(name).modules() if not isinstance(m, known)}
    assert strange <= {"Block"}


@pytest.mark.parametrize(
    ("name", "options", "shape", "parameters"),
    [
        ("mlp", {"hidden": [300, 100]}, (1, 28, 28), 266_610),  # LeNet-300-100
        ("lenet5", {"width": 1.0}, (1, 28, 28), 431_080),  # Caffe's LeNet-5
        ("resnet", {"depth": 20, "width": 16}, (3, 32, 32), 269_722 + 2_752),  # paper (option A) + shortcuts
    ],
)
def test_parameters_as_published(name, options, shape, parameters):
    assert sum(p.numel() for p in built(name, shape, **options).parameters()) == parameters


def test_convnet_without_norm_has_biases():
    kinds = {type(m) for m in built("convnet", norm="none").modules()}
    assert nn.BatchNorm2d not in kinds
    assert built("convnet", norm="none").stage1.conv.bias is not None
    assert built("convnet").stage1.conv.bias is None


@pytest.mark.parametrize("name", sorted(MODELS))
def test_half_of_the_channels_can_be_removed(name):
    wide = {"mlp": {"hidden": [16, 16]}, "lenet5": {"width": 1.0}}.get(name, {"width": 8})
    module = built(name, **wide)
    before = sum(p.numel() for p in module.parameters())
    head = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    example = torch.rand(2, 1, 8, 8)
    pruner = tp.pruner.BasePruner(
        module.eval(),
        example,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[head],
    )
    pruner.step()
    after = sum(p.numel() for p in module.parameters())
    assert after < 0.6 * before
    assert module(example).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_exported_graph_gives_the_same_logits(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    module, x = built(name).eval(), torch.rand(2, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            tmp_path / "m.onnx",
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(5, 1, 8, 8)
    [logits] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_start_from_a_checkpoint(suffix, tmp_path):
    source, file = built("convnet", seed=9).state_dict(), tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": source}, file)
    else:
        save_file(source, file)
    model = Model(name="convnet", options=OPTIONS["convnet"], checkpoint=str(file))
    module = build_model(model, (1, 8, 8), 10, seed=0)
    assert all(torch.equal(v, source[k]) for k, v in module.state_dict().items())


def message(model: Model, shape=(1, 8, 8), classes=10, **where) -> str:
    with pytest.raises(SpaceError) as caught:
        build_model(model, shape, classes, 0, **where)
    return str(caught.value)


class Pickled:
    """Something that torch.load must not build."""


def checkpoint(tmp_path, content) -> Model:
    torch.save(content, tmp_path / "w.pt")
    return Model(name="mlp", options={"hidden": [4]}, checkpoint=str(tmp_path / "w.pt"))


def test_a_checkpoint_that_does_not_fit_names_the_first_differences(tmp_path):
    weights = built("mlp", hidden=[5, 5]).state_dict()
    text = message(checkpoint(tmp_path, weights), where="teacher")
    assert text.startswith("teacher.checkpoint: ")
    assert "fc3.weight is unknown to the model" in text
    assert "fc1.weight is (5, 64) but the model's is (4, 64)" in text
    assert "and 3 more" in text
    assert "options" in text


def test_a_checkpoint_must_be_finite(tmp_path):
    weights = built("mlp", hidden=[4]).state_dict()
    weights["fc1.weight"][0, 0] = math.nan
    assert "must be finite, fc1.weight is not" in message(checkpoint(tmp_path, weights))


@pytest.mark.parametrize(
    "content", [Pickled(), [1, 2], {}, {"a": 1}, nn.Linear(1, 1)], ids=lambda content: type(content).__name__
)
def test_a_checkpoint_must_be_a_state_dict_and_runs_no_code(tmp_path, content):
    text = message(checkpoint(tmp_path, content))
    assert text.startswith("student.checkpoint: ")
    assert "state_dict" in text


def test_a_checkpoint_must_be_there_and_be_weights(tmp_path):
    assert "no such file" in message(Model(name="mlp", checkpoint=str(tmp_path / "no.pt")))
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(b"\0\1hello")
        assert "cannot be read as weights" in message(Model(name="mlp", checkpoint=str(tmp_path / name)))


@pytest.mark.parametrize("name", ["lenet5", "convnet", "resnet"])
def test_convolutions_need_images(name):
    text = message(Model(name=name), shape=(30,))
    assert text.startswith(f"student.model: {name!r} needs images (channels, height, width)")
    assert "use `mlp`" in text


OWN = """
import torch
from torch import nn
def good(input_shape, classes, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
def wrong_shape(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))
def wrong_input(input_shape, classes):
    return nn.Linear(3, classes)
def pair(input_shape, classes):
    class Pair(nn.Module):
        def forward(self, x): return x, x
    return Pair()
def none(input_shape, classes): return None
def raises(input_shape, classes): raise RuntimeError("no GPU here")
thing = 3
"""


@pytest.fixture
def own(own_module):
    name = own_module(OWN)
    return lambda function, **options: Model(name=f"{name}:{function}", options=options)


def test_own_model_is_found_from_the_current_folder(own):
    module = build_model(own("good", width=5), (1, 8, 8), 10, 0)
    assert module[1].out_features == 5


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("wrong_shape", "must return logits of shape (2, 10) for a batch of shape (2, 1, 8, 8), but got (2, 11)"),
        ("wrong_input", "cannot compute a batch of shape (2, 1, 8, 8) (RuntimeError"),
        ("pair", "but got 'tuple'"),
        ("none", "must return a torch.nn.Module, but got 'NoneType'"),
        ("raises", "raised RuntimeError for input_shape (1, 8, 8) and 10 classes: no GPU here"),
        ("thing", "must be a function"),
        ("absent", "cannot import"),
    ],
)
def test_mistakes_in_own_models_name_the_section(own, function, expected):
    text = message(own(function))
    assert text.startswith("student.model: ")
    assert expected in text


def test_an_option_that_the_own_model_does_not_take(own):
    assert "unexpected keyword argument 'depth'" in message(own("good", depth=2))
