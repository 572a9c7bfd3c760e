"""From an image as it lies on a disk to its label map on the same voxels, in bounded memory."""
