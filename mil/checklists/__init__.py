"""What reporting guidelines ask for, answered as far as a run knows; and the flow of its patients."""
