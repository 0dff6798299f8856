"""DCGAN for 28×28 as TensorFlow's tutorial has it, with its exact "same" padding.

G: dense 7·7·256, then 5×5 transposed convolutions 128 (stride 1), 64 and 1 (stride 2) with BatchNorm and
LeakyReLU 0.3. D: 5×5 convolutions 64 and 128 of stride 2 with LeakyReLU 0.3 and dropout 0.3, one logit. Adam 1e-4
with β₁ = 0.9, batches of 256.

"Same" at stride 2 pads an even image by 1 before and 2 after; its transpose crops by as much.
"""

from __future__ import annotations

from minigan import nn
from minigan.gan.recipes.dcgan import packed
from minigan.gan.settings import Settings, SettingsError
from minigan.tensor import Tensor

defaults = Settings(
    recipe="dcgan-28", data="glyphs", size=28, steps=5000, batch=256, latent=100,
    loss="non-saturating", g_lr=1e-4, d_lr=1e-4, beta1=0.9,
)  # fmt: skip


class UpSame(nn.Module):
    """Transpose of a 5×5 "same" convolution of stride 2: twice the size, one row and column more cropped behind."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 5, 2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :-1, :-1]


def networks(settings: Settings, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """G and D for samples of this shape."""
    _, height, width = shape
    if height % 4 or width % 4:
        raise SettingsError(f"dcgan-28: images of {height}×{width}; height and width should be multiples of 4")
    size = (256, height // 4, width // 4)
    values = 256 * size[1] * size[2]
    G = nn.Sequential(
        nn.Linear(settings.latent, values, bias=False), nn.BatchNorm1d(values, 1e-3, 0.01), nn.LeakyReLU(0.3),
        nn.Unflatten(1, size),
        nn.ConvTranspose2d(256, 128, 5, 1, padding=2, bias=False), nn.BatchNorm2d(128, 1e-3, 0.01), nn.LeakyReLU(0.3),
        UpSame(128, 64), nn.BatchNorm2d(64, 1e-3, 0.01), nn.LeakyReLU(0.3),
        UpSame(64, shape[0]), nn.Tanh(),
    )  # fmt: skip
    D = nn.Sequential(
        nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(packed(shape, settings.pack)[0], 64, 5, 2), nn.LeakyReLU(0.3),
        nn.Dropout(0.3),
        nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(64, 128, 5, 2), nn.LeakyReLU(0.3), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(128 * size[1] * size[2], 1),
    )  # fmt: skip
    for layer in (*G.modules(), *D.modules()):  # Keras's first weights
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return G, D
