"""Prediction: from an image on disk to its label map on the same voxels, in bounded memory."""
