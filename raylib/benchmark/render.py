"""Times our renderer against PyTorch3D: forward and backward, alternating in one process, ratios of the best runs.

One thread on the CPU is timed by processor time, so that other work on the machine does not count; several threads
and CUDA by the clock on the wall.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pytorch3d.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    MeshRasterizer,
    MeshRenderer,
    RasterizationSettings,
    SoftPhongShader,
    TexturesVertex,
    look_at_view_transform,
)
from pytorch3d.renderer.mesh.rasterize_meshes import _RasterizeFaceVerts
from pytorch3d.structures import Meshes

from raylib.benchmark.record import outputs, write_record
from raylib.config import BenchmarkRenderConfig
from raylib.geometry.camera import Camera
from raylib.geometry.mesh import vertex_normals
from raylib.geometry.subdivision import hemisphere
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.lighting.spherical_harmonics import self_shadow_transfer
from raylib.render import SoftRenderer, SoftSettings, pytorch3d_backend, rasterize_face_verts

_SIGMA, _GAMMA, _ZFAR = 1e-4, 1e-4, 100.0  # PyTorch3D's usual softness, in its units
_BLUR = math.log(1 / 1e-4 - 1) * _SIGMA
_DISTANCE = 2.7
_FOV_DEG = 60.0
_REFERENCE_SECONDS_PER_FACE_PIXEL = 1.1e-8  # of PyTorch3D's forward pass on one core, for the guess below
_REFERENCE_SECONDS_PER_HIT = 6e-5  # of its backward pass
_MAX_REFERENCE_ROUNDS = 3
_MIN_SECONDS = 1.0
_FIRST_RENDER = """
import torch
from raylib.geometry.camera import Camera
from raylib.geometry.subdivision import hemisphere
from raylib.render import SoftRenderer, SoftSettings

mesh = hemisphere(3)
verts = mesh.verts[None].clone().requires_grad_()
R = torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None]
camera = Camera(R, torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([40.0]), torch.full((1, 2), 16.0))
SoftRenderer(mesh.faces, SoftSettings((32, 32)))(verts, camera, albedo=verts).image.sum().backward()
"""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of forward and backward in one case.

    Attributes:
        what: "rasterize", "render with our rasteriser" or "soft render".
        device: cpu or cuda.
        size: edge of the picture in pixels.
        faces_per_pixel: of the rasterisers.
        verts: number of vertices.
        threads: on the CPU.
        ours_ms: our best run.
        reference_ms: PyTorch3D's best run, None where it would take too long.
        speedup: our time on the first number of threads over that on these.
    """

    what: str
    device: str
    size: int
    faces_per_pixel: int
    verts: int
    threads: int
    ours_ms: float
    reference_ms: float | None
    speedup: float

    @property
    def ratio(self) -> float | None:
        """How many times longer PyTorch3D takes."""
        return None if self.reference_ms is None else self.reference_ms / self.ours_ms


def _milliseconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - started) * 1e3


def _clock(device: str, threads: int) -> Callable[[], float]:
    return time.process_time if device == "cpu" and threads == 1 else time.perf_counter


def _alternate(
    ours: Callable[[], Any], reference: Callable[[], Any] | None, threads: tuple[int, ...], rounds: int, device: str
) -> tuple[dict[int, float], float | None]:
    """Least milliseconds of ours on each number of threads and of the reference on the first, all in turn.

    A run before each on the same threads, which may compile, is not timed. What is over quickly runs more often than
    `rounds`: the least of few is chance.
    """
    ours_ms: dict[int, list[float]] = {n: [] for n in threads}
    reference_ms: list[float] = []
    begun, i = time.perf_counter(), 0
    while i < rounds or time.perf_counter() - begun < _MIN_SECONDS:
        for n, times in ours_ms.items():
            torch.set_num_threads(n)
            ours()
            times.append(_milliseconds(ours, _clock(device, n)))
        if reference is not None and i < _MAX_REFERENCE_ROUNDS:
            torch.set_num_threads(threads[0])
            reference_ms.append(_milliseconds(reference, _clock(device, threads[0])))
        i += 1
    return {n: min(times) for n, times in ours_ms.items()}, min(reference_ms, default=None)


class _Scene:
    """A rough hemisphere before a camera, as PyTorch3D and as we describe it."""

    def __init__(self, level: int, size: int, seed: int, device: str):
        template = hemisphere(level)
        g = torch.Generator().manual_seed(seed)
        rough = 0.2 / math.sqrt(len(template.verts)) * torch.randn(template.verts.shape, generator=g)
        self.size, self.device = size, device
        self.faces = template.faces.to(device)
        self.verts = (template.verts + rough).to(device)
        self.albedo = torch.rand(len(template.verts), 3, generator=g).to(device)
        R, T = look_at_view_transform(_DISTANCE, 10, 15)
        self.cameras = FoVPerspectiveCameras(R=R, T=T, fov=_FOV_DEG, device=device)
        # PyTorch3D's camera looks along +z with x to the left and y up; ours has x to the right and y down.
        turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
        focal = torch.tensor([size / 2 / math.tan(math.radians(_FOV_DEG / 2))])
        pose = (R[0] @ turn).T[None]
        self.camera = Camera(*(t.to(device) for t in (pose, T @ turn, focal, torch.full((1, 2), size / 2))))

    def rasterizing(self, ours: bool, faces_per_pixel: int) -> Callable[[], None]:
        """Forward and backward of a rasteriser with gradients to depths, coordinates and distances."""
        rasterizer = MeshRasterizer(self.cameras, RasterizationSettings())
        ndc = rasterizer.transform(Meshes([self.verts], [self.faces])).verts_packed()
        face_verts = ndc[self.faces].detach().requires_grad_()
        first, count = torch.tensor([0]), torch.tensor([len(self.faces)])
        blur = _BLUR if faces_per_pixel > 1 else 0.0
        unsplit = torch.full((len(self.faces),), -1)
        shape = (1, self.size, self.size, faces_per_pixel)
        grads = [torch.ones(shape), torch.ones(*shape, 3), torch.ones(shape)]

        def run() -> None:
            face_verts.grad = None
            if ours:
                found = rasterize_face_verts(
                    face_verts, first, count, (self.size, self.size), blur, faces_per_pixel, True, blur > 0
                )
                outputs = [found.zbuf, found.bary_coords, found.dists]
            else:
                outputs = _RasterizeFaceVerts.apply(
                    face_verts, first, count, unsplit, (self.size, self.size), blur, faces_per_pixel, 0, 0, True,
                    blur > 0, False,
                )[1:]  # fmt: skip
            torch.autograd.backward(outputs, grads)

        return run

    def phong(self, rasterizer_class: Any, faces_per_pixel: int) -> Callable[[], None]:
        """Forward and backward of PyTorch3D's soft Phong renderer on a rasteriser of its own or ours."""
        settings = RasterizationSettings(self.size, _BLUR if faces_per_pixel > 1 else 0.0, faces_per_pixel)
        blend = BlendParams(_SIGMA, _GAMMA, (0.0, 0.0, 0.0))
        shader = SoftPhongShader(device=self.device, cameras=self.cameras, blend_params=blend)
        renderer = MeshRenderer(rasterizer_class(self.cameras, settings), shader)
        verts, albedo = self.verts.clone().requires_grad_(), self.albedo.clone().requires_grad_()
        grad = torch.ones(1, self.size, self.size, 4, device=self.device)

        def run() -> None:
            verts.grad = albedo.grad = None
            renderer(Meshes([verts], [self.faces], TexturesVertex([albedo]))).backward(grad)

        return run

    def soft(self) -> Callable[[], None]:
        """Forward and backward of our soft renderer with the same softness and light at the vertices."""
        settings = SoftSettings(
            (self.size, self.size), sigma_px2=_SIGMA * (self.size / 2) ** 2, gamma=_GAMMA * (_ZFAR - 1),
            z_far=_ZFAR, composite="softmax",
        )  # fmt: skip
        renderer = SoftRenderer(self.faces, settings)
        light = torch.zeros(1, 9, 3, device=self.device)
        light[:, 0] = 3.0
        leaves = [t.clone().requires_grad_() for t in (self.verts[None], self.albedo[None], light)]
        grads = [torch.ones(1, self.size, self.size, *channels, device=self.device) for channels in ((3,), ())]

        def run() -> None:
            for leaf in leaves:
                leaf.grad = None
            verts, albedo, coefficients = leaves
            rendered = renderer(verts, self.camera, SphericalHarmonicLight(coefficients), albedo=albedo)
            torch.autograd.backward([rendered.image, rendered.alpha], grads)

        return run


def _reference_seconds(scene: _Scene, faces_per_pixel: int) -> float:
    """A guess of one run of PyTorch3D on one core of the CPU."""
    pixels = scene.size**2
    hits = 0.5 * pixels * min(faces_per_pixel, 1 + 2.5 * len(scene.faces) / pixels * 30)
    return pixels * len(scene.faces) * _REFERENCE_SECONDS_PER_FACE_PIXEL + hits * _REFERENCE_SECONDS_PER_HIT


def _cases(scene: _Scene, faces_per_pixel: tuple[int, ...]) -> list[tuple[str, int, Callable, Callable]]:
    """What to time: name, faces per pixel, ours, PyTorch3D's."""
    most = max(faces_per_pixel)
    reference = scene.phong(MeshRasterizer, most)
    cases: list[tuple[str, int, Callable, Callable]] = []
    if scene.device == "cpu":
        cases += [("rasterize", k, scene.rasterizing(True, k), scene.rasterizing(False, k)) for k in faces_per_pixel]
        cases.append(("PyTorch3D's shader", most, scene.phong(pytorch3d_backend.MeshRasterizer, most), reference))
    cases.append(("soft render", most, scene.soft(), reference))
    return cases


def _print_row(t: Timing) -> None:
    reference = "-" if t.reference_ms is None else f"{t.reference_ms:.0f}"
    ratio = "-" if t.ratio is None else f"{t.ratio:.0f}"
    print(
        f"{t.device:5} {t.verts:6} {t.size:5} {t.threads:3} {t.faces_per_pixel:4} {t.what:20} "
        f"{t.ours_ms:9.2f} {reference:>9} {ratio:>6} {t.speedup:7.2f}",
        flush=True,
    )  # fmt: skip


def _seconds_of_a_new_process(code: str) -> float:
    # Installed packages come with their bytecode; where it may not be written, parsing them would be counted.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def warm_start_seconds(rounds: int = 3) -> float:
    """Returns the seconds from a new process to its first soft gradient, beyond those of importing torch.

    The kernels are compiled and on disk by then. The least of a few rounds, taken in turn.
    """
    pairs = [
        (_seconds_of_a_new_process("import torch"), _seconds_of_a_new_process(_FIRST_RENDER)) for _ in range(rounds)
    ]
    return min(b for _, b in pairs) - min(a for a, _ in pairs)


def shadow_milliseconds(level: int, rounds: int) -> float:
    """Returns the least milliseconds of the self-shadow transfer of one mesh, 256 directions, one thread."""
    scene = _Scene(level, 64, 0, "cpu")
    verts = scene.verts[None]
    normals = vertex_normals(verts, scene.faces)

    def run() -> Any:
        return self_shadow_transfer(verts, normals, scene.faces)

    return _alternate(run, None, (1,), rounds, "cpu")[0][1]


def plan(config: BenchmarkRenderConfig) -> list[str]:
    """Returns what a run would do, in lines."""
    cuda = ", then on the GPU" if torch.cuda.is_available() else ""
    return [
        f"would time surfaces of levels {config.levels} at {config.sizes} pixels on {config.threads} threads{cuda}",
        f"{config.faces_per_pixel} faces a pixel, {config.rounds} rounds, our time against PyTorch3D's",
        *outputs(config.output),
    ]


def run(config: BenchmarkRenderConfig) -> int:
    """Prints a table of timings and ratios and writes them as JSON."""
    timings: list[Timing] = []
    print("dev    verts  size thr    K what                   ours ms PyTorch3D  times speedup")
    threads_before = torch.get_num_threads()
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for level in config.levels:
            for size in config.sizes:
                scene = _Scene(level, size, config.seed, device)
                for what, k, ours, reference in _cases(scene, config.faces_per_pixel):
                    threads = config.threads if device == "cpu" else (threads_before,)
                    affordable = device == "cuda" or _reference_seconds(scene, k) <= config.max_reference_seconds
                    best, known = _alternate(ours, reference if affordable else None, threads, config.rounds, device)
                    for n, ours_ms in best.items():
                        speedup = best[threads[0]] / ours_ms
                        timings.append(Timing(what, device, size, k, len(scene.verts), n, ours_ms, known, speedup))
                        _print_row(timings[-1])
    torch.set_num_threads(1)
    shadow = {str(2 * 4**level + 2 * 2**level + 1): shadow_milliseconds(level, 5) for level in config.levels}
    torch.set_num_threads(threads_before)
    warm = warm_start_seconds()
    print(
        f"self-shadow, 256 directions, one thread, ms by vertices: { {v: round(ms, 1) for v, ms in shadow.items()} }"
    )
    print(f"warm start of a new process beyond importing torch: {warm:.2f} s")
    rows = [vars(t) | {"ratio": t.ratio} for t in timings]
    write_record(config.output, config, {"timings": rows, "shadow_ms": shadow, "warm_start_s": warm})
    return 0
