"""What the plots of the benchmarks share."""

from scripts.benchmarks.common.plot import draw_spreads, new_figure


def test_open_markers_lie_on_the_line():
    axes = new_figure(4, 3).add_subplot()
    points = {1: [2.0, 4.0, 9.0], 2: [], 4: [5.0]}
    draw_spreads(axes, points, "band", "name", is_open=[2, 4])
    line, marker = (one for one in axes.lines if len(one.get_xdata()) and one.get_marker() == "o")
    assert line.get_xydata().tolist() == [[1, 4], [4, 5]]
    assert marker.get_xydata().tolist() == [[4, 5]]
    assert marker.get_markerfacecolor() == "white" and marker.get_zorder() > line.get_zorder()


def test_nothing_is_drawn_without_values():
    axes = new_figure(4, 3).add_subplot()
    draw_spreads(axes, {1: []}, "band", "name")
    assert not axes.lines
