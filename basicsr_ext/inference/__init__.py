"""Networks on whole images: padding, tiles, pixel ranges."""
