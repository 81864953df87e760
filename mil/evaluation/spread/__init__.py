"""How much a number would move: with other patients, divisions, seeds, centers; and how often one looked."""
