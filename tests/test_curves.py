from xml.etree import ElementTree

from raylib.metrics.curves import draw_curves

SVG = "{http://www.w3.org/2000/svg}"


def test_every_line_becomes_a_polyline_inside_the_picture():
    x = [1.0, 2.0, 5.0]
    f1 = {"eyes": [0.1, 0.5, 0.9], "nose": [0.5] * 3}
    text = draw_curves(x, {"loss < 1": {"train": [3.0, 2.0, 1.0]}, "F1": f1})
    root = ElementTree.fromstring(text)
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 3
    points = [[tuple(map(float, p.split(","))) for p in line.get("points", "").split()] for line in lines]
    for line in points:
        assert len(line) == 3
        assert all(0 <= px <= 640 and 0 <= py <= 520 for px, py in line)
        # The abscissa is to scale: 2 lies a quarter of the way from 1 to 5.
        assert abs((line[1][0] - line[0][0]) / (line[2][0] - line[0][0]) - 0.25) < 0.01
    # A falling line falls on the page (y grows downwards), and the panels do not overlap.
    assert points[0][0][1] < points[0][1][1] < points[0][2][1] < points[1][2][1]
    assert "loss < 1" in "".join(root.itertext())


def test_one_epoch_with_one_value_is_drawn():
    ElementTree.fromstring(draw_curves([1.0], {"loss": {"train": [0.5]}}))
