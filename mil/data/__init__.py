"""Who is trained and tested on what: slides, patients, folds, and what must not be on both sides."""
