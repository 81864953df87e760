"""Published encoders: their cards' facts, their file layouts, and pools and stems that timm lacks."""
