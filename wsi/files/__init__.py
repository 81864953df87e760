"""Files of this machine: whole or absent, claimed, replaced by one rule, and opened with care."""
