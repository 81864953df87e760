"""How the numbers of each target are shown: tables and figures of one section."""
