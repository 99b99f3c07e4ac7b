"""What a task is, how one is found by its name, and what classification, detection and segmentation share."""
