"""One file per way to read a slide; each opens a `wsi.slide.Slide` or says why it cannot."""
