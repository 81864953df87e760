"""Bags of tile features in; models, patient-level predictions and the evidence for them out."""
