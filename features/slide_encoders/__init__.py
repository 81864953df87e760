"""Slide encoders: the features of a slide's tiles in, one vector for the slide out."""
