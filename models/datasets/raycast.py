"""A room with one object, rendered by casting one ray per pixel; every pixel is a continuous function of the factors.

The floor y = 0 and the walls x = -d, z = -d meet in a corner; a camera that looks at it moves around the object, a
superellipsoid {p : |p_x|^e + |p_y|^e + |p_z|^e ≤ r^e} on the floor. Edges are smoothed over one pixel by the distance
of the pixel to them, not by more rays: an edge that moves by a hundredth of a pixel changes the image by a hundredth.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_WALL_DISTANCE = 2.6  # of both walls from the object's axis; lengths are in units of a middling object's radius
_CAMERA_DISTANCE = 6.0
_CAMERA_HEIGHT = 2.9
_LOOK_AT_HEIGHT = 0.95
_HALF_VIEW = 0.36  # tangent of half the field of view
_LIGHT = (0.75, 0.55, 0.25)  # towards the light; not symmetric in x and z, so that left and right differ
_BISECTIONS = 14
_WALL_SHADES = (0.72, 0.92)  # of the walls x = -d and z = -d


class Scene(NamedTuple):
    """Factors of images, each (n,).

    Attributes:
        floor_hue: in turns of the colour circle, 0 red, 1/3 green, 2/3 blue.
        wall_hue: as ``floor_hue``.
        object_hue: as ``floor_hue``.
        scale: radius of the ball of the object's volume.
        exponent: of the superellipsoid, above 1: 2 is a ball, large a cube with rounded edges.
        azimuth: of the camera, in radians from the diagonal of the room.
    """

    floor_hue: Tensor
    wall_hue: Tensor
    object_hue: Tensor
    scale: Tensor
    exponent: Tensor
    azimuth: Tensor


def render(scene: Scene, size: int) -> Tensor:
    """Images of scenes, uint8 (n, 3, size, size)."""
    eye, right, up, forward = _camera(scene.azimuth)
    pixel = 2 * _HALF_VIEW / size  # width of a pixel at distance 1
    ticks = (torch.arange(size) + 0.5) * pixel - _HALF_VIEW
    vertical, horizontal = (grid.reshape(-1, 1) for grid in torch.meshgrid(-ticks, ticks, indexing="ij"))
    # Directions of length 1 along `forward`, so that depths along rays are affine in the pixel's place for planes.
    rays = forward.unsqueeze(1) + horizontal * right.unsqueeze(1) + vertical * up.unsqueeze(1)  # (n, size², 3)
    image = _room(scene, eye, rays, right, up, pixel)
    _paint_object(image, scene, eye, rays, pixel)
    return (255 * image).round().to(torch.uint8).reshape(-1, size, size, 3).permute(0, 3, 1, 2).contiguous()


def _camera(azimuth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Place of the camera, and its axes right, up and forward, each (n, 3)."""
    around = math.pi / 4 + azimuth
    outward = torch.stack([around.cos(), torch.zeros_like(around), around.sin()], dim=1)
    vertical = torch.tensor([0.0, 1.0, 0.0])
    eye = _CAMERA_DISTANCE * outward + _CAMERA_HEIGHT * vertical
    forward = torch.nn.functional.normalize(_LOOK_AT_HEIGHT * vertical - eye, dim=1)
    right = torch.linalg.cross(forward, vertical.expand_as(forward))
    right = torch.nn.functional.normalize(right, dim=1)
    return eye, right, torch.linalg.cross(right, forward), forward


def _room(scene: Scene, eye: Tensor, rays: Tensor, right: Tensor, up: Tensor, pixel: float) -> Tensor:
    """Floor and walls, in [0, 1], (n, size², 3).

    A ray meets the plane at height h below the eye along normal N at depth -h/⟨N, ray⟩. Inverse depths are affine in
    the pixel's place, the plane in front has the largest one, and two planes meet where theirs are equal.
    """
    heights = eye + torch.tensor([_WALL_DISTANCE, 0.0, _WALL_DISTANCE])  # above x = -d, y = 0, z = -d
    inverse_depths = -rays / heights.unsqueeze(1)
    wall_x, floor, wall_z = inverse_depths.unbind(dim=2)
    slopes_right, slopes_up = pixel * right / heights, pixel * up / heights  # change per pixel, up to the sign

    def in_front(one: int, other: int) -> Tensor:
        """Share of the pixel in which plane ``one`` is in front of plane ``other``, (n, size²)."""
        across = torch.hypot(slopes_right[:, one] - slopes_right[:, other], slopes_up[:, one] - slopes_up[:, other])
        return _share((inverse_depths[..., one] - inverse_depths[..., other]) / across.unsqueeze(1))

    left = in_front(0, 2)
    is_floor = in_front(1, 0) * left + in_front(1, 2) * (1 - left)
    shade_x, shade_z = _WALL_SHADES
    # A ray that misses the floor would meet it behind the camera: its weight is zero, its depth of no importance.
    floor_points = eye.unsqueeze(1) + rays / floor.clamp_min(0.05).unsqueeze(2)
    wall_points = eye.unsqueeze(1) + rays / torch.maximum(wall_x, wall_z).unsqueeze(2)
    wall_light = (left * shade_x + (1 - left) * shade_z) * (0.78 + 0.09 * wall_points[..., 1].clamp(0, 4))
    # The shadow under the object: dark where it stands, gone at about twice its radius.
    from_object = floor_points[..., 0].square() + floor_points[..., 2].square()
    shadow = torch.exp(-from_object / (1.1 * scene.scale.square()).unsqueeze(1))
    floor_light = 1 - 0.6 * shadow
    floor_color, wall_color = _color(scene.floor_hue), _color(scene.wall_hue)
    return (is_floor * floor_light).unsqueeze(2) * floor_color.unsqueeze(1) + ((1 - is_floor) * wall_light).unsqueeze(
        2
    ) * wall_color.unsqueeze(1)


def _paint_object(image: Tensor, scene: Scene, eye: Tensor, rays: Tensor, pixel: float) -> None:
    """Paint the object over ``image``."""
    radius = _radius(scene.scale, scene.exponent)
    center = torch.stack([torch.zeros_like(radius), radius, torch.zeros_like(radius)], dim=1)
    eye = eye - center
    # Only rays through the ball around the object can meet it: all others are left alone.
    length = rays.norm(dim=2)
    nearest = -torch.einsum("nc,npc->np", eye, rays) / length.square()
    reach = radius * 3 ** (0.5 - 1 / scene.exponent).clamp_min(0) + 2 * pixel * _CAMERA_DISTANCE
    distance = (eye.unsqueeze(1) + nearest.unsqueeze(2) * rays).norm(dim=2)
    which, where = torch.nonzero(distance < reach.unsqueeze(1), as_tuple=True)
    exponent, radius, middle = scene.exponent[which].unsqueeze(1), radius[which], nearest[which, where]
    half = 1.5 * reach[which] / length[which, where]
    # From here on in units of the radius, in which the object is ‖p‖_e ≤ 1. Along the ray the norm is convex: where it
    # is least, and, before that, where it first is 1.
    ray, eye = rays[which, where] / radius.unsqueeze(1), eye[which] / radius.unsqueeze(1)

    def points_at(depth: Tensor) -> Tensor:
        return eye + depth.unsqueeze(1) * ray

    deepest = _bisect(lambda depth: _falls(points_at(depth), ray, exponent), middle - half, middle + half)
    surface = _bisect(lambda depth: _power(points_at(depth), exponent).sum(dim=1) > 1, middle - half, deepest)
    least = _power(points_at(deepest), exponent).sum(dim=1) ** (1 / exponent.squeeze(1))
    points = points_at(torch.where(least < 1, surface, deepest))
    gradient = _gradient(points, exponent)
    # The norm rises by |gradient|/radius per length across the outline, and a pixel is `pixel·depth` wide.
    coverage = _share((1 - least) * radius / (pixel * middle * gradient.norm(dim=1)))
    light, highlight = _object_light(torch.nn.functional.normalize(gradient, dim=1), ray, points[:, 1])
    color = (_color(scene.object_hue)[which] * light.unsqueeze(1) + highlight.unsqueeze(1)).clamp(0, 1)
    image[which, where] = torch.lerp(image[which, where], color, coverage.unsqueeze(1))


def _object_light(normal: Tensor, ray: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Diffuse light and white highlight on the object, each (n_points,); ``height`` from -1, on the floor, to 1."""
    towards_light = torch.nn.functional.normalize(torch.tensor(_LIGHT), dim=0)
    towards_eye = -torch.nn.functional.normalize(ray, dim=1)
    halfway = torch.nn.functional.normalize(towards_light + towards_eye, dim=1)
    diffuse = 0.45 + 0.6 * (normal @ towards_light).clamp_min(0)
    occlusion = 0.8 + 0.2 * (height + 1).clamp(0, 1)
    return diffuse * occlusion, 0.3 * (normal * halfway).sum(dim=1).clamp_min(0) ** 40


def _radius(scale: Tensor, exponent: Tensor) -> Tensor:
    """Radius of the superellipsoid that has the volume of a ball of radius ``scale``.

    Its volume is (2r)³·Γ(1 + 1/e)³/Γ(1 + 3/e) (Dirichlet).
    """

    def log_volume(e: Tensor) -> Tensor:
        return 3 * torch.lgamma(1 + 1 / e) - torch.lgamma(1 + 3 / e)

    return scale * torch.exp((log_volume(torch.full_like(exponent, 2.0)) - log_volume(exponent)) / 3)


def _power(points: Tensor, exponent: Tensor) -> Tensor:
    """|p|^exponent of each coordinate; half the time of torch.pow."""
    return (exponent * points.abs().log2()).exp2()


def _falls(points: Tensor, ray: Tensor, exponent: Tensor) -> Tensor:
    """Whether ‖·‖_e falls along the ray."""
    return (points.sign() * _power(points, exponent - 1) * ray).sum(dim=1) < 0


def _gradient(points: Tensor, exponent: Tensor) -> Tensor:
    """Gradient of ‖·‖_e at each row: sign(p)·(|p|/‖p‖_e)^(e - 1)."""
    norm = _power(points, exponent).sum(dim=1, keepdim=True) ** (1 / exponent)
    return points.sign() * _power(points / norm, exponent - 1)


def _bisect(is_before: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Depth at which ``is_before`` turns from true to false."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        before = is_before(middle)
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    return (low + high) / 2


def _share(distance: Tensor) -> Tensor:
    """Share of a pixel on the positive side of an edge, from its centre's signed distance to the edge, in pixels."""
    return (distance + 0.5).clamp(0, 1)


def _color(hue: Tensor) -> Tensor:
    """RGB of full saturation, (n, 3) in [0, 1]."""
    offsets = torch.tensor([0.0, 4.0, 2.0])
    return (((6 * hue.unsqueeze(1) + offsets) % 6 - 3).abs() - 1).clamp(0, 1)
