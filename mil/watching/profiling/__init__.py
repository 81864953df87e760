"""`gigamil profile`: some seconds of a stage, and where they went."""
