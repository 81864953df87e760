"""What people draw on slides: read, and written in the form that QuPath exports and imports (GeoJSON)."""
