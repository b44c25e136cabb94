"""Dataset of pictures: shapes in colours, and answers of one form.

`python -m examples.shapes.make FOLDER` writes it; upload the folder as `processed_datasets/shapes`. The train and eval
splits have no pair of shape and colour in common.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (214, 40, 40), "blue": (40, 70, 200), "green": (30, 150, 60), "yellow": (240, 200, 30)}
SHAPES = ("circle", "square", "triangle", "bar")
SIZE = 224
QUESTIONS = ("What is in this picture?", "Which shape is this?", "Describe the picture.")
PICTURES_PER_PAIR = 6


def draw(shape: str, colour: str, generator: random.Random) -> Image.Image:
    """Draw a shape of random size at a random place, on a light background."""
    picture = Image.new("RGB", (SIZE, SIZE), tuple(generator.randint(225, 255) for _ in range(3)))
    half = generator.randint(30, 80)
    x, y = (generator.randint(half, SIZE - half) for _ in range(2))
    pen, box = ImageDraw.Draw(picture), (x - half, y - half, x + half, y + half)
    if shape == "circle":
        pen.ellipse(box, COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, COLOURS[colour])
    elif shape == "triangle":
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], COLOURS[colour])
    else:
        pen.rectangle((x - half, y - half // 4, x + half, y + half // 4), COLOURS[colour])
    return picture


def write(folder: Path) -> None:
    """Write the pictures and the rows of both splits."""
    generator = random.Random(0)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {"train": [], "eval": []}
    for i, colour in enumerate(COLOURS):
        for j, shape in enumerate(SHAPES):
            for number in range(PICTURES_PER_PAIR):
                path = f"pictures/{colour}_{shape}_{number}.png"
                draw(shape, colour, generator).save(folder / path)
                content = [
                    {"type": "image", "image": {"path": path}},
                    {"type": "text", "text": generator.choice(QUESTIONS)},
                ]
                turns = [
                    {"role": "user", "content": content},
                    {"role": "assistant", "content": f"Shape: {shape}. Colour: {colour}."},
                ]
                rows["eval" if i == j else "train"].append(json.dumps({"messages": turns}) + "\n")
    for split, lines in rows.items():
        generator.shuffle(lines)
        (folder / f"{split}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
