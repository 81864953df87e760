"""`gigamil doctor`: what is wrong with an installation, a machine or a disk, and what to do."""
