"""README's results are those of the runs."""

from finalists import cell, draw, finalists
from rows import ROOT


def test_the_readme_states_each_finalist_with_its_interval():
    cells = [cell(points[minutes]) for points in reversed(finalists().values()) for minutes in (30, 90)]
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        places = [text.index(each) for each in cells]
        assert places == sorted(places)
        assert "(experiments/finalists.png)" in text
    assert (ROOT / "experiments" / "finalists.png").is_file()


def test_the_picture_has_a_line_a_setting(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda _, x, y, **__: drawn.append(y))
    monkeypatch.setattr(Axes, "legend", lambda *_, **__: None)
    draw(finalists(), tmp_path / "finalists.png")
    assert len(drawn) == 5
    assert [round(float(f1), 1) for f1 in drawn[0]] == [69.9, 74.7]
