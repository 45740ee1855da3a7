"""Colours of a picture on a light and on a dark page: those of the pages themselves."""

from dataclasses import dataclass

from viewmill.tools.inspection.plots import ACCENT, BAR, CARD, INK, LINE, SOFT, STYLE


@dataclass(frozen=True)
class Theme:
    """Names are those of page_style.css.j2; `good` and `bad` are told apart without red and green."""

    name: str
    card: str
    ink: str
    soft: str
    line: str
    accent: str
    bar: str
    good: str
    bad: str

    @property
    def suffix(self) -> str:
        """What the name of a PNG ends in before `.png`."""
        return "" if self is LIGHT else f".{self.name}"

    def style(self) -> dict[str, object]:
        """Settings of matplotlib."""
        colours = {INK: self.ink, SOFT: self.soft, LINE: self.line, CARD: self.card}
        own = {name: colours.get(str(value), value) for name, value in STYLE.items()}
        return {**own, "axes.facecolor": self.card}


LIGHT = Theme("light", CARD, INK, SOFT, LINE, ACCENT, BAR, "#2563a8", "#d9822b")
DARK = Theme("dark", "#1c222b", "#e3e8ef", "#93a0b2", "#303947", "#6ea8e6", "#556376", "#6ea8e6", "#e39a4a")
THEMES = (LIGHT, DARK)
