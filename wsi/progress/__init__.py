"""How far the work is: events, outcomes, what time goes into, and what moves no more."""
