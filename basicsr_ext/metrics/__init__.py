"""Image quality measures, and the lookup of ours and basicsr's."""
