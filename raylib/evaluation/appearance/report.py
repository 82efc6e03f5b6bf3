"""The appearance report: means over faces with bootstrap intervals, and by skin tone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from raylib.evaluation.appearance.errors import ERRORS, FIGURES, AppearanceErrors, inconstancy
from raylib.evaluation.appearance.skin_tone import CLASSES
from raylib.metrics.bootstrap import bootstrap_draws, measure, text, text_interval

_BY_TONE = ("psnr", "albedo", "tone_deg", "sphere", "unseen_psnr")
_MIN_SHOTS = 2


def _means(values: Any, draws: Any) -> tuple[float, Any]:
    """Returns the mean of the known values, and that of each resample."""
    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (draws @ np.where(known, values, 0.0)) / (draws @ known)
    return (float(values[known].mean()) if known.any() else float("nan")), drawn


def summarise(
    method: Mapping[str, AppearanceErrors], reference: Mapping[str, AppearanceErrors], resamples: int, seed: int
) -> dict[str, Any]:
    """Returns a method's mean figures with 95 % intervals; errors also as a ratio to the reference's.

    Args:
        method: figures by face, at least one.
        reference: figures of the mean face; has every face of `method`.
        resamples: bootstrap draws of faces.
        seed: of the draws.
    """
    names = sorted(method)
    draws = bootstrap_draws(len(names), resamples, seed).astype(np.float64)
    out: dict[str, Any] = {"faces": len(names)}
    for figure in FIGURES:
        mine, base = (np.array([errors[name].figures[figure] for name in names]) for errors in (method, reference))
        value, drawn = _means(mine, draws)
        out[figure] = measure(value, drawn)
        if figure in ERRORS:
            both = np.isfinite(mine) & np.isfinite(base)
            (a, drawn_a), (b, drawn_b) = (_means(np.where(both, v, np.nan), draws) for v in (mine, base))
            with np.errstate(divide="ignore", invalid="ignore"):
                out[figure]["ratio"] = measure(float(np.divide(a, b)), drawn_a / drawn_b)
    out["inconstancy"] = _inconstancy(method, resamples, seed)
    return out


def _inconstancy(method: Mapping[str, AppearanceErrors], resamples: int, seed: int) -> dict[str, Any]:
    """Returns the mean inconstancy of the albedo over people who are seen under several lights."""
    people = defaultdict(list)
    for name in sorted(method):
        if (albedo := method[name].albedo) is not None:
            people[method[name].person].append(albedo)
    values = np.array([inconstancy(shots) for shots in people.values() if len(shots) >= _MIN_SHOTS])
    if not len(values):
        return {**measure(float("nan"), np.array([np.nan])), "people": 0}
    value, drawn = _means(values, bootstrap_draws(len(values), resamples, seed).astype(np.float64))
    return {**measure(value, drawn), "people": len(values)}


def by_tone(
    method: Mapping[str, AppearanceErrors], reference: Mapping[str, AppearanceErrors], resamples: int, seed: int
) -> dict[str, Any]:
    """Returns `summarise` for the faces of each class of skin tone that occurs, and how far the classes differ."""
    classes = {}
    for tone in CLASSES:
        own = {name: errors for name, errors in method.items() if errors.tone == tone}
        if own:
            classes[tone] = summarise(own, reference, resamples, seed)
    spread = {}
    for figure in _BY_TONE:
        values = [c[figure]["value"] for c in classes.values() if c[figure]["value"] is not None]
        spread[figure] = float(max(values) - min(values)) if values else None
    return {"classes": classes, "spread": spread}


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _percent(figure: dict[str, Any]) -> dict[str, Any]:
    value, interval = figure["value"], figure["ci95"]
    return {
        "value": None if value is None else 100 * value,
        "ci95": None if interval is None else [100 * end for end in interval],
    }


def _with_interval(figure: dict[str, Any], digits: int) -> str:
    return "-" if figure["value"] is None else f"{text(figure, digits)} ({text_interval(figure, digits)})"


def _with_ratio(figure: dict[str, Any], scaled: dict[str, Any]) -> str:
    return "-" if figure["value"] is None else f"{text(scaled, 1)} ({text(figure['ratio'], 2)})"


def _spread(spread: dict[str, float | None]) -> list[str]:
    """Returns the differences between classes in the columns of the table by skin tone."""
    digits = {"psnr": (1, 2), "albedo": (100, 1), "tone_deg": (1, 1), "sphere": (100, 1), "unseen_psnr": (1, 2)}
    return ["-" if (v := spread[key]) is None else f"{f * v:.{d}f}" for key, (f, d) in digits.items()]


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as Markdown tables."""
    methods = report["methods"]
    perceptual = any(m["lpips"]["value"] is not None for m in methods.values())
    lines = [
        f"# Appearance of {report['faces']} faces",
        "",
        "Figures are means over the faces that a method reconstructed, in brackets 95 % bootstrap intervals or the "
        "ratio to the mean face (the prior's mean shape with the mean albedo of these faces under even light) over "
        "the same faces. "
        + ", ".join(f"{name} gives no albedo: its colours hold the light" for name in report["without_albedo"])
        + ("." if report["without_albedo"] else ""),
        "",
        "## Reprojection",
        "",
        "The reconstruction drawn over its picture, where both show the bare face; `covered` is the share of the "
        "bare face that it covers." + ("" if perceptual else " No LPIPS: no AlexNet weights were given."),
        "",
    ]
    head = ["method", "faces", "PSNR, dB", "SSIM", *(["LPIPS"] if perceptual else []), "covered, %"]
    rows = []
    for name, m in methods.items():
        faces = f"{m['faces']}" + (f" of {m['faces'] + m['missing']}" if m["missing"] else "")
        rows.append([name, faces, _with_interval(m["psnr"], 2), _with_interval(m["ssim"], 3)])
        rows[-1] += [_with_interval(m["lpips"], 3)] if perceptual else []
        rows[-1].append(text(_percent(m["coverage"]), 1))
    lines += _table(head, rows)
    lines += ["## Albedo", "", "Errors up to a factor as a share of the true albedo (ratio to the mean face).", ""]
    head = ["method", "error, %", "a factor a channel, %", "skin tone (ITA), degrees off", "inconstancy, %"]
    rows = []
    for name, m in methods.items():
        row = [name, *(_with_ratio(m[key], _percent(m[key])) for key in ("albedo", "albedo_by_channel"))]
        rows.append([*row, _with_ratio(m["tone_deg"], m["tone_deg"]), _with_interval(_percent(m["inconstancy"]), 1)])
    lines += _table(head, rows)
    people = max(m["inconstancy"]["people"] for m in methods.values())
    lines += [
        f"Inconstancy: how much the albedo of one face differs under different lights; {people} faces seen so."
        if people
        else "No face is seen under several lights, so that constancy cannot be told.",
        "",
        "## Light",
        "",
        "A white sphere in the estimated and in the true light, up to a factor; the angle between the "
        "directions that most light comes from (ratio to even light for the sphere).",
        "",
    ]
    head = ["method", "sphere, %", "direction, degrees", "face under a light never seen, PSNR, dB"]
    rows = [
        [
            name,
            _with_ratio(m["sphere"], _percent(m["sphere"])),
            _with_interval(m["light_deg"], 1),
            _with_interval(m["unseen_psnr"], 2),
        ]
        for name, m in methods.items()
    ]
    lines += [*_table(head, rows), "## By skin tone", ""]
    head = ["method", "tone", "faces", "reprojection, dB", "albedo, %", "tone, degrees off", "sphere, %"]
    rows = []
    for name, groups in report["by_tone"].items():
        for tone, m in groups["classes"].items():
            shares = [text(m["psnr"], 2), text(_percent(m["albedo"]), 1), text(m["tone_deg"], 1)]
            shares += [text(_percent(m["sphere"]), 1), text(m["unseen_psnr"], 2)]
            rows.append([name, tone, str(m["faces"]), *shares])
        rows.append([name, "largest minus smallest", "", *_spread(groups["spread"])])
    lines += _table([*head, "unseen light, dB"], rows)
    return "\n".join(lines)
