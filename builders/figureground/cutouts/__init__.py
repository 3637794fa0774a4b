"""Cut-outs of objects from photographs, and background images drawn by text-to-image, as D3S takes them."""
