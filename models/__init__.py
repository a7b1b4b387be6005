"""Sparse bi-level learners assembled from the layers: encoders, heads, episodes, few-shot learning.

Imported as ``implicitlayers.models``; the folder stands beside ``implicitlayers/`` only so that the two storeys
of the house show in a directory listing.
"""

if __name__ == "models":
    raise ImportError("import implicitlayers.models, not models: install the project first (pip install -e .)")
