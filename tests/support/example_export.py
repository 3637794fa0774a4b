"""A layout of exports as another package has one."""

from figureground.exporting.layout import ExportLayout, to_csv


class Flat(ExportLayout):
    """All images in one folder, and a table of keys beside them."""

    NAME = "flat"

    def file(self, chosen, row):
        return f"{row.key}{chosen.suffix}"

    def tables(self, chosen):
        return {"keys.csv": to_csv(["key"], ([row.key] for row in chosen.rows))}
