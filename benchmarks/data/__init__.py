"""Measurements of the data stages at COCO's size and beyond; each module's docstring names its command."""
