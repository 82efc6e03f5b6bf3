"""Rasterisation on the CPU: a drop-in for PyTorch3D's `rasterize_meshes`, and plain pixels for everyone else."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from raylib.errors import ConfigError
from raylib.kernels.threads import parts_for, run_parts, thread_count
from raylib.render.interface import Fragments, PixelFragments
from raylib.render.kernels.binning import TileGrid, bin_faces, ndc_pixel_centers
from raylib.render.kernels.rasterize import rasterize_tiles
from raylib.render.kernels.rasterize_grad import rasterize_backward

if TYPE_CHECKING:
    from pytorch3d.structures import Meshes

MAX_FACES_PER_PIXEL = 255

_HITS_WORTH_A_THREAD, _GRADIENTS_WORTH_A_THREAD = 2048, 8192
"""See `parts_for`."""

_MAX_SPARE_BYTES = 1 << 26
_spare_memory: deque[NDArray[np.uint8]] = deque(maxlen=2)


def _memory(n_bytes: int) -> NDArray[np.uint8]:
    """Returns memory for outputs, used again once no earlier output refers to it.

    With 50 faces a pixel a third of the time would go into touching fresh pages. Blocks beyond 64 MiB are not kept.
    """
    for memory in list(_spare_memory):
        # Held by the deque, its copy, the loop and the call that counts. Another thread that looks at the same block
        # at this moment makes one more, so that neither takes it.
        if memory.nbytes == n_bytes and sys.getrefcount(memory) <= 4:
            return memory
    memory = np.empty(n_bytes, np.uint8)
    if n_bytes <= _MAX_SPARE_BYTES:
        _spare_memory.append(memory)
    return memory


def _forward(
    face_verts: NDArray[np.float32],
    grid: TileGrid,
    n_images: int,
    twins: NDArray[np.int64],
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Returns pix_to_face, zbuf, bary_coords and dists of shape (images, height, width, faces per pixel, ...)."""
    shape = (n_images, len(grid.rows), len(grid.columns), faces_per_pixel)
    n = math.prod(shape)
    memory = _memory(28 * n)
    pix_to_face = memory[: 8 * n].view(np.int64).reshape(shape)
    block = memory[8 * n :].view(np.float32)
    zbuf, dists, bary_coords = block[:n].reshape(shape), block[n : 2 * n].reshape(shape), block[2 * n :]
    bary_coords = bary_coords.reshape((*shape, 3))
    parts = min(threads, parts_for(n, _HITS_WORTH_A_THREAD))
    run_parts(
        rasterize_tiles, parts, face_verts, grid.boxes, grid.face_lists, grid.offsets, twins, grid.columns,
        grid.rows, np.float32(blur_radius), faces_per_pixel, n_images, grid.tile_columns, grid.tile_rows,
        perspective_correct, clip_barycentric_coords,
        pix_to_face.reshape(-1), zbuf.reshape(-1), bary_coords.reshape(-1), dists.reshape(-1),
    )  # fmt: skip
    return pix_to_face, zbuf, bary_coords, dists


def rasterize_pixels(
    verts: NDArray[np.floating[Any]],
    faces: NDArray[np.integer[Any]],
    image_size: tuple[int, int],
    threads: int | None = None,
) -> PixelFragments:
    """Returns the nearest face of every pixel, without blur and without gradients.

    Args:
        verts: (b, v, 3) x and y in pixels (see `raylib.geometry.camera`: pixel centres at .5) and depth, any unit.
        faces: (f, 3) triangles, either orientation, the same for every image.
        image_size: height and width in pixels.
        threads: number of threads; torch's own number by default.

    Faces with a vertex behind the camera (depth below 1e-8) are left out.

    Raises:
        RaylibError: a vertex is NaN, or infinite in front of the camera.
    """
    height, width = image_size
    n_images, n_faces = verts.shape[0], faces.shape[0]
    threads = thread_count() if threads is None else threads
    # The kernels want falling coordinates, as NDC has them; turning both axes leaves areas and coordinates alone.
    turned = verts.astype(np.float32) * np.array([-1.0, -1.0, 1.0], np.float32)
    face_verts = turned[:, faces].reshape(n_images * n_faces, 9)
    first_face = np.arange(n_images, dtype=np.int64) * n_faces
    columns = -(np.arange(width, dtype=np.float32) + np.float32(0.5))
    rows = -(np.arange(height, dtype=np.float32) + np.float32(0.5))
    counts = np.full(n_images, n_faces, np.int64)
    grid = bin_faces(face_verts, first_face, counts, columns, rows, 0.0, False, threads)
    no_twins = np.empty(0, np.int64)
    pix_to_face, zbuf, bary_coords, _ = _forward(face_verts, grid, n_images, no_twins, 0.0, 1, True, False, threads)
    pix_to_face = np.where(pix_to_face >= 0, pix_to_face - first_face[:, None, None, None], -1)
    return PixelFragments(pix_to_face[..., 0], zbuf[..., 0], bary_coords[..., 0, :])


class _RasterizeFaceVerts(torch.autograd.Function):
    """Rasterises packed faces; gradients flow from depths, coordinates and distances to the vertices."""

    @staticmethod
    def forward(
        ctx: Any,
        face_verts: Tensor,
        first_face: NDArray[np.int64],
        n_faces: NDArray[np.int64],
        twins: NDArray[np.int64],
        image_size: tuple[int, int],
        blur_radius: float,
        faces_per_pixel: int,
        perspective_correct: bool,
        clip_barycentric_coords: bool,
        cull_backfaces: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = image_size
        packed = face_verts.detach().contiguous().numpy().reshape(-1, 9)
        columns, rows = ndc_pixel_centers(width, height), ndc_pixel_centers(height, width)
        threads = thread_count()
        grid = bin_faces(packed, first_face, n_faces, columns, rows, blur_radius, cull_backfaces, threads)
        pix_to_face, zbuf, bary_coords, dists = (
            torch.from_numpy(a)
            for a in _forward(
                packed, grid, len(first_face), twins, blur_radius, faces_per_pixel, perspective_correct,
                clip_barycentric_coords, threads,
            )
        )  # fmt: skip
        ctx.save_for_backward(face_verts, pix_to_face)
        ctx.mark_non_differentiable(pix_to_face)
        ctx.set_materialize_grads(False)  # would fill zeros for the faces' indices, which have no gradient
        ctx.axes = columns, rows
        ctx.modes = perspective_correct, clip_barycentric_coords
        return pix_to_face, zbuf, bary_coords, dists

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        face_verts, pix_to_face = ctx.saved_tensors
        n_images, _, _, faces_per_pixel = pix_to_face.shape
        shapes = pix_to_face.shape, (*pix_to_face.shape, 3), pix_to_face.shape
        given = [torch.zeros(shape) if g is None else g for g, shape in zip(grads[1:], shapes, strict=True)]
        packed = face_verts.detach().contiguous().numpy().reshape(-1, 9)
        threads = parts_for(pix_to_face.numel(), _GRADIENTS_WORTH_A_THREAD)
        by_image = n_images >= threads
        parts = min(threads, n_images) if by_image else threads
        sums = np.zeros((1 if by_image else parts, *packed.shape), np.float32)
        flat = [g.detach().contiguous().numpy().reshape(-1) for g in (pix_to_face, *given)]
        run_parts(
            rasterize_backward, max(parts, 1), packed, *flat, *ctx.axes, n_images, faces_per_pixel, by_image,
            *ctx.modes, sums,
        )  # fmt: skip
        grad = torch.from_numpy(sums[0] if by_image else sums.sum(0))
        return grad.view_as(face_verts), *(None,) * 9


def rasterize_face_verts(
    face_verts: Float[Tensor, "f 3 3"],
    first_face: Int[Tensor, " b"],
    n_faces: Int[Tensor, " b"],
    image_size: tuple[int, int],
    blur_radius: float = 0.0,
    faces_per_pixel: int = 8,
    perspective_correct: bool = False,
    clip_barycentric_coords: bool = False,
    cull_backfaces: bool = False,
    twins: Int[Tensor, " f"] | None = None,
) -> Fragments:
    """Returns the nearest faces of every pixel, differentiable in the vertices, on the CPU.

    Args:
        face_verts: x, y in PyTorch3D's NDC (left and up) and depth of the vertices of all faces of the batch.
        first_face: index of each image's first face.
        n_faces: number of each image's faces.
        image_size: height and width in pixels.
        blur_radius: squared NDC distance up to which a face reaches beyond its edges.
        faces_per_pixel: faces kept per pixel, 1 to 255.
        perspective_correct: whether to correct barycentric coordinates for perspective.
        clip_barycentric_coords: whether to clip barycentric coordinates to the face.
        cull_backfaces: whether to leave out faces that run clockwise in the image.
        twins: for a face split in two by clipping, the index of the other half; -1 elsewhere.

    Raises:
        ConfigError: `faces_per_pixel` is out of range, or the tensors are not single precision on the CPU.
        RaylibError: a vertex is NaN, or infinite in front of the camera.
    """
    if not 1 <= faces_per_pixel <= MAX_FACES_PER_PIXEL:
        raise ConfigError(f"faces_per_pixel is {faces_per_pixel}, expected 1 to {MAX_FACES_PER_PIXEL}")
    if face_verts.device.type != "cpu" or face_verts.dtype != torch.float32:
        raise ConfigError(f"face_verts is {face_verts.dtype} on {face_verts.device}, expected torch.float32 on cpu")
    twin_faces = np.empty(0, np.int64) if twins is None else twins.contiguous().numpy()
    outputs = _RasterizeFaceVerts.apply(
        face_verts, first_face.contiguous().numpy(), n_faces.contiguous().numpy(), twin_faces, image_size,
        float(blur_radius), faces_per_pixel, perspective_correct, clip_barycentric_coords, cull_backfaces,
    )  # fmt: skip
    return Fragments(*outputs)


def rasterize(
    meshes: Meshes,
    image_size: int | Sequence[int] = 256,
    blur_radius: float = 0.0,
    faces_per_pixel: int = 8,
    bin_size: int | None = None,
    max_faces_per_bin: int | None = None,
    perspective_correct: bool = False,
    clip_barycentric_coords: bool = False,
    cull_backfaces: bool = False,
    z_clip_value: float | None = None,
    cull_to_frustum: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns pix_to_face, zbuf, bary_coords, dists: a drop-in for PyTorch3D's `rasterize_meshes` on the CPU.

    Equal bits in the forward pass; the gradients follow the mathematics where PyTorch3D's do not (see
    `rasterize_grad_kernels`). `bin_size` and `max_faces_per_bin` tune PyTorch3D's CUDA code and do nothing here.

    Args:
        meshes: batch of meshes in NDC with depth as z.
        image_size: edge, or height and width, in pixels.
        blur_radius: squared NDC distance up to which a face reaches beyond its edges.
        faces_per_pixel: faces kept per pixel, 1 to 255.
        bin_size: accepted for the signature's sake.
        max_faces_per_bin: accepted for the signature's sake.
        perspective_correct: whether to correct barycentric coordinates for perspective.
        clip_barycentric_coords: whether to clip barycentric coordinates to the face.
        cull_backfaces: whether to leave out faces that run clockwise in the image.
        z_clip_value: depth at which faces are cut off and, where needed, split; None leaves them whole.
        cull_to_frustum: whether to leave out faces outside the image.

    Raises:
        ConfigError: `faces_per_pixel` is out of range, or the tensors are not single precision on the CPU.
        RaylibError: a vertex is NaN, or infinite in front of the camera.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    face_verts = meshes.verts_packed()[meshes.faces_packed()]
    first_face, n_faces = meshes.mesh_to_faces_packed_first_idx(), meshes.num_faces_per_mesh()
    clipped, twins = None, None
    if z_clip_value is not None or cull_to_frustum:
        # Clipping is a few tensor operations; PyTorch3D's own are used, imported only by those who clip.
        from pytorch3d.renderer.mesh.clip import ClipFrustum, clip_faces

        frustum = ClipFrustum(
            left=-1, right=1, top=-1, bottom=1, perspective_correct=perspective_correct,
            z_clip_value=z_clip_value, cull=cull_to_frustum,
        )  # fmt: skip
        clipped = clip_faces(face_verts, first_face, n_faces, frustum=frustum)
        face_verts, twins = clipped.face_verts, clipped.clipped_faces_neighbor_idx
        first_face, n_faces = clipped.mesh_to_face_first_idx, clipped.num_faces_per_mesh
    fragments = rasterize_face_verts(
        face_verts, first_face, n_faces, (int(height), int(width)), blur_radius, faces_per_pixel,
        perspective_correct, clip_barycentric_coords, cull_backfaces, twins,
    )  # fmt: skip
    pix_to_face, bary_coords = fragments.pix_to_face, fragments.bary_coords
    if clipped is not None:
        from pytorch3d.renderer.mesh.clip import convert_clipped_rasterization_to_original_faces

        pix_to_face, bary_coords = convert_clipped_rasterization_to_original_faces(pix_to_face, bary_coords, clipped)
    return pix_to_face, fragments.zbuf, bary_coords, fragments.dists
