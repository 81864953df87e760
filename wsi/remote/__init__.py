"""What lies behind URLs (``s3://``, whatever fsspec knows): fetched, published, claimed, as if it lay on this machine.

Outputs are made in a scratch folder of this machine by the code that makes local ones, then published item by item; the
last object that is written makes an item whole. Inputs that no reader streams by ranges are fetched to scratch first.
"""
