"""Pretraining of an encoder without anybody's labels: on formula images, or on one's own tiles by themselves."""
