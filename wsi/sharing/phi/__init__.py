"""The search for what tells whose slide it is: in every file of a folder, in every place where words can stand."""
