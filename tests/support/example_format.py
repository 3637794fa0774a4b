"""A format of shards as another package would bring it: a zip per shard, with images and a line of JSON per sample."""

import json
import zipfile

from figureground.recipe.sample import IMAGE_FORMATS
from figureground.shards.formats.format import Format, Writer
from figureground.shards.samples import Stored

LINES = "samples.jsonl"


class Zip(Format):
    """A zip per shard: `{key}.jpg`, `{key}.guide.png` and so on, and `samples.jsonl`."""

    NAME = "zip"
    TITLE = "zip"
    FOLDER = "zips"
    SUFFIX = ".zip"
    MIME = "application/zip"

    def write(self, draft, columns, image_format):
        return ZipWriter(draft.file, image_format)

    def read(self, path, rows=None):
        with zipfile.ZipFile(path) as file:
            there = set(file.namelist())
            for row, line in enumerate(file.read(LINES).splitlines()):
                if rows is not None and row not in rows:
                    continue
                fields = json.loads(line)
                name = next(f"{fields['key']}.{each}" for each in IMAGE_FORMATS if f"{fields['key']}.{each}" in there)
                images = {each: file.read(f"{fields['key']}.{each}.png") for each in fields.pop("images")}
                yield Stored(image=file.read(name), images=images, **fields)


class ZipWriter(Writer):
    def __init__(self, file, image_format):
        self.zip, self.image_format, self.lines = zipfile.ZipFile(file, "w"), image_format, []
        self.closed = False

    def add(self, sample):
        spec = sample.spec
        self.write(f"{spec.key}.{self.image_format}", sample.image)
        for name, image in sample.images.items():
            self.write(f"{spec.key}.{name}.png", image)
        labels = {"foreground": spec.foreground, "background": spec.background, **sample.labels}
        fields = {"key": spec.key, "prompt": spec.prompt, "provenance": sample.provenance, "labels": labels,
                  "texts": sample.texts, "images": list(sample.images)}  # fmt: skip
        self.lines.append(json.dumps(fields))

    def write(self, name, data):
        self.zip.writestr(zipfile.ZipInfo(name), data)  # which dates it 1980, so that bytes depend on samples alone

    def close(self):
        if not self.closed:
            self.closed = True
            self.write(LINES, "\n".join(self.lines))
            self.zip.close()
