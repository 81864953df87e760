"""The report's sections on uncertainty and on centers: the numbers put together, and their templates."""
