"""Random variants of one picture, for learning a token from it (RealFusion's heavy augmentation, as Magic123 uses it).

All random numbers come from one generator on the CPU; the pictures are computed on the picture's device. The geometric steps
(rotation, its centre crop, resized crop, flip) are composed into one affine map, so that the picture is resampled only once.
Probabilities and ranges are those of the published code; the outside of the picture is white.

The published code crops a rotated picture to 5/6 of the *resolution*, not of the enlarged picture: 426 of 640 pixels at
resolution 512. It draws its resized crops with torchvision's RandomResizedCrop, which never leaves the picture.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from magic123.device import to_device

ENLARGED = 5 / 4  # the picture is first resized to this multiple of the resolution
ROTATION = (0.75, 10.0)  # probability, degrees either way
ROTATION_CROP = 5 / 6  # side of the centre crop of a rotated picture, as a share of the resolution
CROP_AREA = (0.85, 1.15)  # of a resized crop, as a share of the picture's area
CROP_ASPECT = (3 / 4, 4 / 3)  # width / height of a resized crop, drawn with a uniform logarithm
CROP_ATTEMPTS = 10  # draws of a resized crop that fits into the picture; if none does, the whole picture is used
JITTER = (0.75, 0.04)  # probability, strength of brightness, contrast, saturation and hue
GREY = 0.1  # probability
BLUR = (0.1, 5, (0.1, 2.0))  # probability, kernel side in pixels, range of sigma
FLIP = 0.5  # probability


def centre_square(picture: Tensor, side: int) -> Tensor:
    """Return the centre square [3, side, side] of a picture [H, W, 3] whose shorter side is resized to `side`, bicubically."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    shape = (max(side, round(height * scale)), max(side, round(width * scale)))
    resized = F.interpolate(picture.permute(2, 0, 1)[None], shape, mode="bicubic", align_corners=False, antialias=True)[0]
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    return resized[:, top : top + side, left : left + side].clamp(0, 1)


def augment(picture: Tensor, count: int, resolution: int, generator: torch.Generator) -> Tensor:
    """Return random variants of a picture, [count, resolution, resolution, 3] in [0, 1].

    Args:
        picture: [H, W, 3] in [0, 1] on white; the variants are computed on its device.
        count: number of variants.
        resolution: height and width of the variants in pixels.
        generator: source of all random numbers; on the CPU.
    """
    source = centre_square(picture, round(resolution * ENLARGED)).expand(count, -1, -1, -1)
    maps = to_device(draw_maps(count, generator), picture.device)
    grid = F.affine_grid(maps, [count, 3, resolution, resolution], align_corners=False)
    # grid_sample pads with 0, which is white after subtracting 1
    images = 1 + F.grid_sample(source - 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    images = torch.where(
        _chosen(count, JITTER[0], generator, picture.device), jitter_colors(images, JITTER[1], generator), images
    )
    images = torch.where(_chosen(count, GREY, generator, picture.device), _luma(images).expand(-1, 3, -1, -1), images)
    images = torch.where(_chosen(count, BLUR[0], generator, picture.device), _blur(images, generator), images)
    return images.clamp(0, 1).permute(0, 2, 3, 1)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return `count` uniform random numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(count, generator=generator)


def _chosen(count: int, probability: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return a random mask [count, 1, 1, 1] on a device, true with the given probability."""
    return to_device((torch.rand(count, generator=generator) < probability)[:, None, None, None], device)


def draw_maps(count: int, generator: torch.Generator) -> Tensor:
    """Return random affine maps [count, 2, 3] from output to source coordinates, both in [-1, 1] with y down."""
    rotated = torch.rand(count, generator=generator) < ROTATION[0]
    angle = torch.deg2rad(_uniform(count, -ROTATION[1], ROTATION[1], generator)) * rotated
    zoom = torch.where(rotated, ROTATION_CROP / ENLARGED, 1.0)
    window = draw_windows(count, generator)
    centre = (1 - window) * (2 * torch.rand(count, 2, generator=generator) - 1)
    flip = torch.where(torch.rand(count, generator=generator) < FLIP, -1.0, 1.0)
    turn = zoom[:, None, None] * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    scale = torch.diag_embed(window * torch.stack([flip, torch.ones(count)], -1))
    return torch.cat([turn @ scale, turn @ centre[..., None]], -1)


def draw_windows(count: int, generator: torch.Generator) -> Tensor:
    """Draw the sides of `count` resized crops as shares of a square picture: [count, 2], width and height, at most 1.

    A draw that is larger than the picture along an axis is repeated, as by torchvision's RandomResizedCrop.
    """
    drawn = count * CROP_ATTEMPTS
    area = _uniform(drawn, *CROP_AREA, generator)
    narrow, wide = CROP_ASPECT
    aspect = torch.exp(_uniform(drawn, math.log(narrow), math.log(wide), generator))
    windows = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], -1).reshape(count, CROP_ATTEMPTS, 2)
    fits = (windows <= 1).all(-1)
    first = fits.float().argmax(1)
    return torch.where(fits.any(1, keepdim=True), windows[torch.arange(count), first], torch.ones(()))


def _luma(images: Tensor) -> Tensor:
    """Return the ITU-R BT.601 luma [B, 1, H, W] of images [B, 3, H, W]."""
    shares = to_device(torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype), images.device)
    return (images * shares[:, None, None]).sum(1, keepdim=True)


def jitter_colors(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return images [B, 3, H, W] in [0, 1] with random changes of colour.

    Args:
        images: [B, 3, H, W] in [0, 1].
        strength: brightness, contrast and saturation are multiplied by U(1 - strength, 1 + strength); the hue is moved by
            U(-strength, strength) turns.
        generator: draws the changes of each image.
    """
    brightness, contrast, saturation = (
        to_device(_uniform(len(images), 1 - strength, 1 + strength, generator), images.device)[:, None, None, None]
        for _ in range(3)
    )
    images = (images * brightness).clamp(0, 1)
    images = torch.lerp(_luma(images).mean((2, 3), keepdim=True), images, contrast).clamp(0, 1)
    images = torch.lerp(_luma(images), images, saturation).clamp(0, 1)
    return shift_hue(images, to_device(_uniform(len(images), -strength, strength, generator), images.device))


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Return images [B, 3, H, W] in [0, 1] with their hue moved by `turns` [B] of the colour wheel, in HSV."""
    value, index = images.max(1)
    chroma = value - images.min(1).values
    red, green, blue = images.unbind(1)
    gap = chroma.clamp_min(1e-8)
    hue = torch.stack([(green - blue) / gap, (blue - red) / gap + 2, (red - green) / gap + 4], 1)  # sixths of a turn
    hue = hue.gather(1, index[:, None])[:, 0] + 6 * turns[:, None, None]
    k = torch.stack([(start + hue) % 6 for start in (5, 3, 1)], 1)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images [B, 3, H, W] blurred by Gaussians, with a random sigma for each image."""
    side, bounds = BLUR[1], BLUR[2]
    sigma = _uniform(len(images), *bounds, generator)
    offsets = torch.arange(side) - side // 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = to_device((kernel / kernel.sum(-1, keepdim=True)).repeat_interleave(3, 0)[:, None], images.device)  # [3B, 1, side]
    height, width = images.shape[-2:]
    flat = F.pad(images.reshape(1, -1, height, width), [side // 2] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, :, None], groups=kernel.shape[0])
    return F.conv2d(flat, kernel[..., None], groups=kernel.shape[0]).view_as(images)
