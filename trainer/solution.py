"""Label one picture: run.py --input IMAGE --output MASK --weights ckpt.pth

`trainer.predict --package` puts this file into the leaderboard's zip as run.py, beside the
network's own file. It needs nothing but torch, numpy and pillow.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps


def logits_of(model: torch.nn.Module, pixels: np.ndarray, content: dict[str, Any]) -> torch.Tensor:
    """Logits [1, C, S, S] of a reduced picture uint8 [S, S, 3]."""
    mean = torch.tensor(content["mean_rgb"])[:, None, None]
    sd = torch.tensor(content["sd_rgb"])[:, None, None]
    inputs = ((torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / sd)[None]
    logits: torch.Tensor = model(inputs)
    if content["tta_flip"]:
        # the mirrored picture's logits, mirrored back, left and right parts traded
        mirrored = model(inputs.flip(-1)).flip(-1)[:, torch.tensor(content["swap"])]
        logits = (logits + mirrored) / 2
    return logits


@torch.inference_mode()
def label(picture: Image.Image, model: torch.nn.Module, content: dict[str, Any]) -> np.ndarray:
    """Class ids uint8 [H, W] of a picture at its own size."""
    side = content["image_size"]
    width, height = picture.size
    pixels = np.array(picture.resize((side, side), Image.Resampling.BILINEAR))
    logits = logits_of(model, pixels, content)
    # above this size the finer steps are no longer the network's: repeated pixels take a
    # nineteenth of the memory
    shrink = min(1.0, content["largest_side"] / max(width, height))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    raised = torch.nn.functional.interpolate(
        logits, size=size, mode="bilinear", align_corners=False
    )
    ids = Image.fromarray(raised[0].argmax(dim=0).numpy().astype(np.uint8))
    return np.array(ids.resize((width, height), Image.Resampling.NEAREST))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Label the parts of a face in one picture.")
    parser.add_argument("--input", required=True, help="a picture")
    parser.add_argument("--output", required=True, help="the mask to write, a palette PNG")
    parser.add_argument("--weights", required=True, help="ckpt.pth")
    args = parser.parse_args()
    content = torch.load(args.weights, map_location="cpu", weights_only=True)
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    factory = getattr(importlib.import_module(content["module"]), content["factory"])
    model = factory(**content["arguments"])
    model.load_state_dict(content["state_dict"])
    # upright, as a viewer shows it
    picture = ImageOps.exif_transpose(Image.open(args.input)).convert("RGB")
    ids = label(picture, model.eval(), content)
    mask = Image.fromarray(ids)
    mask.putpalette(content["palette"])
    mask.save(args.output)


if __name__ == "__main__":
    main()
