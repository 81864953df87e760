"""One model at a time: its epochs, what is drawn for them, and the processes that share them."""
