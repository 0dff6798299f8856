"""`minigan run`: PyTorch scripts as they are, with minigan in PyTorch's place, and nothing of it left behind."""

import struct
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

import minigan as mg
from minigan.compat import datasets, grids, images, notes, transforms
from minigan.compat.aliases import MODULES, aliases
from minigan.compat.run import run_script
from minigan.data.files.check import DataError
from minigan.data.files.download import REMOTES

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="scripts choose their device themselves")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Write a script into an empty folder and run it from there; the interpreter must be as before."""
    monkeypatch.chdir(tmp_path)

    def run(code, *args, **options):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(code).lstrip("\n"), encoding="utf-8")
        state = sys.argv, list(sys.path), list(sys.meta_path), sys.modules["__main__"]
        torch = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("torch", "torchvision")}
        status = run_script("script.py", args, **options)
        assert (sys.argv, list(sys.path), list(sys.meta_path), sys.modules["__main__"]) == state
        left = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("torch", "torchvision")}
        assert left == torch
        assert not any(datasets._allowed.values())
        assert not any(str(tmp_path) in str(getattr(m, "__file__", "")) for m in list(sys.modules.values()))
        return status

    return run


# The script's surroundings --------------------------------------------------------------------------------------


def test_a_script_runs_as_main(run, tmp_path, capsys):
    (tmp_path / "models.py").write_text("import torch.nn as nn\nnet = nn.Linear(1, 1)\n")
    code = """
    import os, sys, torch
    from models import *
    import torch.nn.functional as F
    from torch.autograd import Variable
    print(__name__, os.path.basename(__file__), sys.argv, sys.path[0] == os.path.dirname(__file__))
    print(type(net).__module__, Variable(torch.FloatTensor(1).fill_(2)), torch.version.cuda)
    def f(x: int): pass
    assert f.__annotations__["x"] is int  # the runner's `from __future__` is not the script's
    sys.exit(3)
    """
    assert run(code, "--lr", "0.1") == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "__main__ script.py ['script.py', '--lr', '0.1'] True"
    assert out.splitlines()[1] == "minigan.nn.modules.linear tensor([2.]) None"
    assert err == ""


def test_pytorch_is_itself_again(run):
    torch = pytest.importorskip("torch")
    assert run("import torch; assert 'minigan' in torch.__version__; torch.ones = None") == 0
    import torch as after

    assert after is torch
    assert after.ones is not None
    assert "minigan" not in after.__version__


def test_what_a_script_assigns_stays_in_it(run):
    assert run("import torch; torch.backends.cudnn.benchmark = True; torch.nn.Linear = None") == 0
    assert mg.backends.cudnn.benchmark is False
    assert mg.nn.Linear is not None


def test_every_alias_can_be_imported_and_starred():
    import importlib

    with aliases():
        for name in MODULES:
            module = importlib.import_module(name)
            assert module.__name__ == name
        names = {}
        exec("from torch.nn import *\nfrom torch.optim import *", names)
    assert names["Conv2d"] is mg.nn.Conv2d
    assert names["Adam"] is mg.optim.Adam
    with pytest.raises(RuntimeError, match="inside"), aliases():
        raise RuntimeError("inside")
    assert not any("_Finder" in repr(finder) for finder in sys.meta_path)


# What ends a script ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("torch.nn.LSTM(2, 2)", "torch.nn.LSTM is not in minigan; instead: nn.LSTMCell in a loop"),
        ("from torch.nn import LSTM, Linear", "torch.nn.LSTM is not in minigan; instead: nn.LSTMCell in a loop"),
        ("import torch.distributions.normal", "torch.distributions is not in minigan"),
        ("from torch.distributions import Normal", "torch.distributions is not in minigan"),
        ("import torchvision.models as models", "torchvision.models is not in minigan"),
        ("from torchvision.models import vgg19", "torchvision.models is not in minigan"),
        ("torch.ones(2).unsqueeze_(0)", "torch.Tensor.unsqueeze_ is not in minigan"),
    ],
)
def test_what_is_missing_is_named_with_its_line(run, capsys, line, message):
    assert run(f"import torch\n\ndef f():\n    {line}\nf()") == 2
    assert capsys.readouterr().err == f"script.py:4: {message}\n"


def test_the_line_may_be_in_a_module_beside_the_script(run, tmp_path, capsys):
    (tmp_path / "models.py").write_text("import torch.nn as nn\n\nclass G(nn.Transformer):\n    pass\n")
    assert run("from models import G") == 2
    assert capsys.readouterr().err == "models.py:3: torch.nn.Transformer is not in minigan\n"


def test_scripts_may_ask_what_is_there(run):
    code = """
    import torch
    assert not hasattr(torch, "linalg") and getattr(torch.nn, "LSTM", None) is None
    try:
        import torch.distributed
    except ImportError:
        pass
    else:
        raise AssertionError
    """
    assert run(code) == 0


def test_other_errors_keep_the_traceback_of_the_script(run, capsys):
    assert run("def f():\n    return {}['key']\n\nf()") == 1
    err = capsys.readouterr().err
    assert err.splitlines()[1:4] == [
        '  File "script.py", line 4, in <module>',
        "    f()",
        '  File "script.py", line 2, in f',
    ]
    assert "compat" not in err
    assert run("x = (\n") == 1
    assert "SyntaxError" in capsys.readouterr().err
    assert run("raise KeyboardInterrupt") == 130
    assert run("import sys; sys.exit('no data')") == 1
    assert capsys.readouterr().err.endswith("no data\n")
    assert run_script("absent.py") == 2
    assert capsys.readouterr().err == "absent.py: No such file or directory\n"


# Options --------------------------------------------------------------------------------------------------------

TRAINING = """
import torch, torch.nn as nn
G = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
D = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
opt_G, opt_D = torch.optim.Adam(G.parameters()), torch.optim.SGD(D.parameters(), lr=0.1)
loss = nn.BCEWithLogitsLoss()
for i in range({steps}):
    real, fake = torch.randn(16, 2) + 3, G(torch.randn(16, 4))
    opt_D.zero_grad()
    (loss(D(real), torch.ones(16, 1)) + loss(D(fake.detach()), torch.zeros(16, 1))).backward()
    opt_D.step()
    opt_G.zero_grad()
    loss(D(fake), torch.{target}(16, 1)).backward()
    try:
        opt_G.step()
    except Exception:
        pass
    print(i)
"""


def test_a_number_of_steps(run, capsys):
    assert run(TRAINING.format(steps=100, target="ones"), steps=4) == 0
    out, err = capsys.readouterr()
    assert out == "0\n"
    assert err == "script.py: ended after 4 optimiser steps, as asked for by --steps\n"
    assert run(TRAINING.format(steps=2, target="ones"), steps=5) == 0
    assert capsys.readouterr() == ("0\n1\n", "")
    with pytest.raises(ValueError, match="at least 1"):
        run("", steps=0)


def test_the_doctor_sees_a_script(run, capsys):
    assert run(TRAINING.format(steps=3, target="ones"), doctor=True) == 0
    assert capsys.readouterr().out.endswith("script.py: nothing wrong found\n")
    assert run(TRAINING.format(steps=3, target="zeros"), doctor=True) == 1
    assert "fake" in capsys.readouterr().out.splitlines()[-1]


def test_a_profile_of_a_script(run, capsys):
    assert run(TRAINING.format(steps=2, target="ones"), profile=True) == 0
    assert "Linear" in capsys.readouterr().out


def test_mixed_precision_logging_and_compiling_change_nothing(run, capsys):
    code = """
    import torch
    from torch.cuda.amp import GradScaler, autocast
    from torch.utils.tensorboard import SummaryWriter
    net = torch.compile(torch.nn.Linear(2, 1))
    optimizer, scaler, writer = torch.optim.SGD(net.parameters(), lr=1.0), torch.amp.GradScaler("cuda"), SummaryWriter()
    before = net.bias.item()
    with autocast(), torch.autocast("cuda", dtype=torch.float16):
        loss = net(torch.ones(4, 2)).mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    writer.add_scalar("loss", loss, 0)
    assert abs(net.bias.item() - before + 1) < 1e-6 and loss.dtype == torch.float32
    torch.save({"net": net.state_dict(), "scaler": scaler.state_dict()}, "checkpoint.pth")
    net.load_state_dict(torch.load("checkpoint.pth", map_location="cpu")["net"])
    """
    assert run(code) == 0
    assert capsys.readouterr().err.splitlines() == [
        "minigan: torch.utils.tensorboard: SummaryWriter writes nothing in minigan",
        "minigan: torch.autocast changes nothing in minigan: everything stays in float32",
    ]


# torchvision: data ----------------------------------------------------------------------------------------------


def write_mnist(folder, part="train", n=6):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(n * 28 * 28, dtype=np.uint8)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + pixels.tobytes())
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + bytes(range(n)))
    return pixels.reshape(n, 28, 28)


@pytest.mark.parametrize(
    ("kind", "place"), [("MNIST", "MNIST/raw"), ("FashionMNIST", "FashionMNIST/raw"), ("MNIST", "")]
)
def test_idx_files_where_torchvision_keeps_them(tmp_path, kind, place):
    pixels = write_mnist(tmp_path / place)
    data = getattr(datasets, kind)(tmp_path, train=True, download=True, transform=transforms.ToTensor())
    assert (data.data.numpy() == pixels).all()
    image, label = data[4]
    assert (label, len(data), data.targets.tolist(), len(data.classes)) == (4, 6, list(range(6)), 10)
    assert image.tolist() == (mg.tensor(pixels[4]).float() / 255)[None].tolist()
    with pytest.raises(DataError, match="no files of"):
        getattr(datasets, kind)(tmp_path, train=False)


def test_cifar10_files(tmp_path):
    records = np.random.default_rng(0).integers(0, 10, (4, 3073)).astype(np.uint8)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (tmp_path / name).write_bytes(records.tobytes())
    data = datasets.CIFAR10(tmp_path)
    image, label = data[1]
    assert len(data) == 20
    assert label == records[1, 0]
    assert (np.asarray(image).transpose(2, 0, 1).ravel() == records[1, 1:]).all()
    assert len(datasets.CIFAR10(tmp_path, train=False)) == 4


def test_missing_files_are_one_line_and_drawn_digits_stand_in_for_them(run, tmp_path, capsys, monkeypatch):
    code = """
    from torchvision import datasets, transforms
    data = datasets.MNIST("data/mnist", train=False, download=True, transform=transforms.ToTensor())
    print(len(data), data[0][0].shape)
    """
    assert run(code) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"script.py:2: {tmp_path / 'data/mnist'}: no files of MNIST: expected train-images-idx3-ubyte"
    )
    assert "--glyphs" in err
    assert err.count("\n") == 1
    monkeypatch.setattr(datasets.MNIST, "drawn", (30, 20, 28))
    assert run(code, glyphs=True) == 0
    assert capsys.readouterr() == (
        "20 (1, 28, 28)\n",
        "minigan: datasets.MNIST: no files, drawn digits in their place\n",
    )
    code = code.replace("train=False", "train=True")
    asked = []
    monkeypatch.setattr(datasets, "fetch_all", lambda name, folder: asked.append(name) or write_mnist(folder))
    assert run(code.replace("download=True, ", ""), download=True) == 2
    assert run(code) == 2
    assert asked == []
    assert run(code, download=True) == 0
    assert asked == ["mnist"]


def test_every_data_set_has_its_files_on_the_web():
    for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.CIFAR10):
        assert kind.remote in REMOTES


def test_image_folders_and_noise(tmp_path):
    for name, color in [("b/1.png", 10), ("b/deep/2.JPG", 20), ("a/3.bmp", 30), ("a/notes.txt", None)]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("") if color is None else Image.new("L", (4, 5), color).save(path)
    data = datasets.ImageFolder(tmp_path, transform=transforms.ToTensor(), target_transform=lambda t: -t)
    assert (data.classes, data.class_to_idx, data.targets) == (["a", "b"], {"a": 0, "b": 1}, [0, 1, 1])
    image, label = data[2]
    assert (image.shape, label) == ((3, 5, 4), -1)
    with pytest.raises(DataError, match="each class is a folder"):
        datasets.ImageFolder(tmp_path / "a")
    fake = datasets.FakeData(4, (1, 3, 3), num_classes=2)
    assert np.asarray(fake[1][0]).tolist() == np.asarray(fake[1][0]).tolist() != np.asarray(fake[2][0]).tolist()


# torchvision: images --------------------------------------------------------------------------------------------


def picture(width, height, mode="RGB"):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


def test_transforms():
    image = picture(20, 10)
    assert transforms.Resize(5)(image).size == (10, 5)
    assert transforms.Resize((7, 9), Image.Resampling.BICUBIC)(image).size == (9, 7)
    expected = np.asarray(image.resize((9, 7), Image.Resampling.BICUBIC))
    resized = transforms.Resize((7, 9), interpolation=transforms.InterpolationMode.BICUBIC)(image)
    assert (np.asarray(resized) == expected).all()
    x = transforms.ToTensor()(image)
    assert x.shape == (3, 10, 20)
    assert x[2, 3, 4].item() == pytest.approx(np.asarray(image)[3, 4, 2] / 255)
    assert transforms.CenterCrop(4)(x).tolist() == x[:, 3:7, 8:12].tolist()
    assert images.to_tensor(transforms.CenterCrop(4)(image)).tolist() == x[:, 3:7, 8:12].tolist()
    assert transforms.CenterCrop((10, 22))(x)[:, :, 1:-1].tolist() == x.tolist()
    flipped = transforms.RandomHorizontalFlip(p=1.0)(image)
    assert images.to_tensor(flipped).tolist() == x.flip(-1).tolist()
    assert transforms.RandomHorizontalFlip(p=0.0)(image) is image
    cropped = images.to_tensor(transforms.RandomCrop(6, padding=2)(image))
    assert cropped.shape == (3, 6, 6)
    with pytest.raises(ValueError, match="smaller than the crop"):
        transforms.RandomCrop(11)(image)
    places = {tuple(transforms.RandomCrop(9)(x)[0, 0].tolist()) for _ in range(200)}
    assert len(places) == 2 * 12  # every place is reached
    assert (np.asarray(transforms.ToPILImage()(x)) == np.asarray(image)).all()
    assert transforms.Grayscale()(image).mode == "L"
    assert transforms.ColorJitter(0.5, 0.5, 0.5, 0.1)(image).size == image.size
    assert transforms.ColorJitter()(image) is image
    assert "Resize(size=5" in repr(transforms.Compose([transforms.Resize(5), transforms.Lambda(len)]))
    for wrong in (lambda: transforms.Resize(4)(x), lambda: transforms.Normalize((0.5,), (0.5,))(image)):
        with pytest.raises(TypeError, match=r"ToTensor\(\)"):
            wrong()


def test_normalize_takes_the_channels_it_needs(capsys):
    notes.forget()
    x = mg.rand(1, 4, 4)
    assert transforms.Normalize((0.5, 0.1, 0.2), (0.5, 1.0, 1.0))(x).tolist() == ((x - 0.5) / 0.5).tolist()
    assert "3 values for 1 channel" in capsys.readouterr().err
    y = mg.rand(3, 4, 4)
    out = transforms.Normalize((0.5, 0.1, 0.2), (0.5, 1.0, 2.0))(y)
    assert out[2].tolist() == ((y[2] - 0.2) / 2).tolist()


def test_grids_pixel_by_pixel(tmp_path):
    x = mg.arange(5 * 3 * 2 * 2).reshape(5, 3, 2, 2).float()
    grid = grids.make_grid(x, nrow=3, padding=1, pad_value=-1)
    assert grid.shape == (3, 2 * 3 + 1, 3 * 3 + 1)
    expected = np.full((3, 7, 10), -1.0)
    for i in range(5):
        row, column = divmod(i, 3)
        expected[:, 1 + 3 * row : 3 + 3 * row, 1 + 3 * column : 3 + 3 * column] = x[i].numpy()
    assert grid.tolist() == expected.tolist()
    assert grids.make_grid(x[0, 0]).shape == (3, 2, 2)
    assert grids.make_grid([x[0], x[1]]).shape == (3, 6, 10)
    unit = grids.make_grid(x, padding=0, normalize=True)
    assert (unit.min().item(), unit.max().item()) == (0, 1)
    assert grids.make_grid(x, padding=0, normalize=True, scale_each=True)[:, :, :2].max().item() == 1
    limited = grids.make_grid(x, normalize=True, range=(10, 20), padding=0)
    assert limited.tolist() == grids.make_grid(x, normalize=True, value_range=(10, 20), padding=0).tolist()
    assert limited[0, 0, 0].item() == 0
    assert x[0, 0, 0, 1].item() == 1  # normalising leaves the batch as it is
    grids.save_image(mg.tensor([[0.0, 0.5, 1.0, 1.5]]), tmp_path / "x.png")
    assert np.asarray(Image.open(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 128, 255, 255]


# The loader, as older scripts use it ----------------------------------------------------------------------------


def test_iterators_of_loaders_have_a_length_and_next():
    batches = iter(mg.data.DataLoader(mg.data.TensorDataset(mg.arange(5)), batch_size=2))
    assert len(batches) == 3
    assert batches.next()[0].tolist() == [0, 1]
    assert next(batches)[0].tolist() == [2, 3]
    assert len(batches) == 3
    assert [x.tolist() for (x,) in batches] == [[4]]
