"""When a run should say no: sets of classes that hold the truth as often as promised, and answers held back."""
