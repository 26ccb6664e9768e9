"""Bars of times next to each other, as an SVG. Needs matplotlib, which is in the dependency group `bench`."""

from pathlib import Path

INK, OURS, THEIRS = "#222222", "#2a6f97", "#b8bec4"
BAR_INCHES, WIDTH_INCHES = 0.42, 7.0


def bars(groups: dict[str, dict[str, float]], file: Path) -> None:
    """Draw a group of bars for each title: name to seconds, `ours` in another color, with the ratio to ours beside it."""
    import matplotlib as mpl  # noqa: PLC0415 - only those who draw need it

    # The same figures give the same file, and its text can be read and searched.
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": file.name, "svg.fonttype": "none", "font.size": 9, "text.color": INK})
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice above

    heights = [len(times) for times in groups.values()]
    figure, places = plt.subplots(
        len(groups),
        figsize=(WIDTH_INCHES, BAR_INCHES * (sum(heights) + 2 * len(groups))),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axes, (title, times) in zip(places[:, 0], groups.items(), strict=True):
        drawn = axes.barh(
            list(times), list(times.values()), color=[OURS if name == "ours" else THEIRS for name in times]
        )
        axes.bar_label(
            drawn,
            [f"{seconds:.1f} s, {seconds / times['ours']:.2f} times ours" for seconds in times.values()],
            padding=4,
        )
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * max(times.values()))
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(left=False)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)
