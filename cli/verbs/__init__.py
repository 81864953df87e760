"""What single verbs say and do beyond their stage."""
